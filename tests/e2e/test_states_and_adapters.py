"""Mamba and LoRA through a real `hearthd`: prefixes from saved states, adapters by name, a wrong one told."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from hearthd_process import Daemon, running
from lora_models import write_lora
from openai import APIStatusError, AsyncOpenAI
from recurrent_models import write_recurrent

CONFIG = """
[models.mamba]
path = "mamba.gguf"
lora = ["x.gguf"]
[models.hybrid]
path = "lfm2.gguf"
[models.wrong]
path = "mamba.gguf"
lora = ["of-lfm2.gguf"]
"""


def states(daemon: Daemon) -> list[str]:
    """Of its models; a box with a broken one is never ready."""
    return [model["state"] for model in daemon.get("/readyz")[1]["models"]]


@pytest.fixture(scope="module")
def box() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="hearth") as name:
        folder = Path(name)
        for architecture in ("mamba", "lfm2"):
            write_recurrent(folder / f"{architecture}.gguf", architecture)
        write_lora(folder / "x.gguf", folder / "mamba.gguf", seed=1)
        write_lora(folder / "of-lfm2.gguf", folder / "lfm2.gguf", seed=1)
        (folder / "hearthd.toml").write_text(CONFIG)
        with running(folder, "--config", str(folder / "hearthd.toml")) as daemon:
            daemon.until(lambda: states(daemon) == ["ready", "ready", "failed"])
            yield daemon


@pytest.fixture
async def openai(box: Daemon) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://{box.address()}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", ["mamba", "hybrid"])
async def test_a_prefix_is_taken_from_a_saved_state(openai: AsyncOpenAI, model: str) -> None:
    prompt = "words of a prompt that somebody will say twice, with another end each time: "
    cached = []
    for end in "ab":
        answer = await openai.completions.create(
            model=model, prompt=prompt + end, max_tokens=8, temperature=0,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8
        details = answer.usage.prompt_tokens_details
        cached.append(0 if details is None else details.cached_tokens or 0)
    assert cached[0] == 0
    assert cached[1] >= 64


async def test_an_adapter_answers_otherwise_than_its_model(openai: AsyncOpenAI) -> None:
    texts = []
    for name in ("mamba", "mamba:x"):
        answer = await openai.completions.create(
            model=name, prompt="the same words", max_tokens=12, temperature=0, logprobs=1,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        assert answer.choices[0].logprobs is not None
        texts.append(answer.choices[0].logprobs.token_logprobs)
    assert texts[0] != texts[1]


async def test_a_wrong_adapter_fails_its_model_by_name(box: Daemon, openai: AsyncOpenAI) -> None:
    with pytest.raises(APIStatusError, match=r"of-lfm2\.gguf: an adapter of lfm2 models"):
        await openai.completions.create(model="wrong", prompt="x", max_tokens=1)
    facts = (await openai.models.retrieve("wrong")).model_dump()["hearth"]
    assert (facts["state"], facts["error_code"]) == ("failed", "model_file_error")
