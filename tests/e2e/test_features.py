"""The canary says the same with every feature on and off: caches, drafts, chunks, shortage, crowds, grammars."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, cast
from urllib.request import urlopen

import pytest
from hearthd_process import Daemon, running
from openai import AsyncOpenAI
from prometheus_client.parser import text_string_to_metric_families

from hearth_backends.canary.tasks import TASKS, Message, recall

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

OFF = {
    "lookup": "false",
    "prefix_ram": "0",
    "prefix_disk": "0",
    "concurrency": "1",
    "kv_dtype": '"f32"',
    "step_tokens": "2048",
}
FEATURES: dict[str, dict[str, str]] = {
    "prompt lookup": {"lookup": "true"},
    "draft model": {"draft": '"canary"'},
    "lookup and draft": {"lookup": "true", "draft": '"canary"', "concurrency": "4"},
    "prefixes in memory": {"prefix_ram": '"64MiB"'},
    "prefixes on disk": {"prefix_ram": '"1MiB"', "prefix_disk": '"64MiB"'},
    "short chunks": {"step_tokens": "32"},
    "a crowd": {"concurrency": "8"},
    "shortage": {"concurrency": "6", "kv_tokens": "2048"},
    "two stages": {
        "stages": '[{backend = "gguf", layers = [0, 1]}, {backend = "gguf", layers = [1, 4]}]'
    },
}
EVERYTHING = {
    **{key: value for f in ("lookup and draft", "prefixes on disk") for key, value in FEATURES[f].items()},
    "concurrency": "6",
    "kv_tokens": "2048",
    "step_tokens": "48",
}  # fmt: skip

ACCEPTED = "hearth_draft_accepted_tokens_total"
RECALLS = "hearth_prefix_recalls_total"
PROOF: dict[str, dict[str, dict[str, str]]] = {
    "prompt lookup": {ACCEPTED: {"drafter": "lookup"}},
    "draft model": {ACCEPTED: {"drafter": "model"}},
    "prefixes in memory": {"hearth_cached_tokens_total": {}},
    "shortage": {"hearth_cached_tokens_total": {}},
}
"""Figures that are above nothing only where a feature was in use."""


def questions() -> list[list[Message]]:
    """Of every length, some of which begin alike."""
    rng = Random(20)
    stories = [recall(rng, distance=n).messages for n in (100, 400, 900, 1300)]
    short = [TASKS[task](rng).messages for task in ("repeat", "count") for _ in range(4)]
    return [*stories, *short, *stories]


@pytest.fixture(scope="module")
def plain() -> Iterator[list[str]]:
    with box({}) as daemon:
        yield answers(daemon, together=False)


@contextmanager
def box(feature: dict[str, str]) -> Iterator[Daemon]:
    with (
        tempfile.TemporaryDirectory(prefix="hearth") as folder,
        running(Path(folder), "--config", str(configured(Path(folder), feature))) as daemon,
    ):
        yield daemon


def configured(folder: Path, feature: dict[str, str]) -> Path:
    config = folder / "hearthd.toml"
    lines = "".join(f"{key} = {value}\n" for key, value in {**OFF, **feature}.items())
    config.write_text(f'[models.m]\npath = "builtin:canary"\n{lines}')
    return config


def figure(daemon: Daemon, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    text = urlopen(f"http://{daemon.address()}/metrics").read().decode()
    samples = (s for f in text_string_to_metric_families(text) for s in f.samples)
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


def answers(daemon: Daemon, *, together: bool, **fields: Any) -> list[str]:
    """What is said to each question, greedily."""
    daemon.until_ready()
    return asyncio.run(_answers(daemon.address(), together=together, **fields))


def is_in_use(daemon: Daemon, metric: str, labels: dict[str, str]) -> bool:
    """Whether a figure shows it; asked once more where it does not: guesses are tried when they seem to pay."""
    if figure(daemon, metric, **labels) == 0:
        answers(daemon, together=False)
    return figure(daemon, metric, **labels) > 0


async def _answers(address: str, *, together: bool, **fields: Any) -> list[str]:
    async with AsyncOpenAI(
        base_url=f"http://{address}/v1", api_key="none", max_retries=0
    ) as client:

        async def ask(messages: list[Message]) -> str:
            answer = await client.chat.completions.create(
                model="m",
                messages=cast(Any, messages),
                temperature=0,
                max_tokens=300,
                extra_headers={"Cache-Control": "no-store"},
                extra_body=fields,
            )
            return answer.choices[0].message.content or ""

        if together:
            return list(await asyncio.gather(*map(ask, questions())))
        return [await ask(messages) for messages in questions()]


@pytest.mark.slow
@pytest.mark.parametrize("feature", [*FEATURES, "everything"])
def test_the_same_is_said_with_a_feature(plain: list[str], feature: str) -> None:
    settings = FEATURES.get(feature, EVERYTHING)
    with box(settings) as daemon:
        assert answers(daemon, together=settings.get("concurrency", "1") != "1") == plain
        for metric, labels in PROOF.get(feature, {}).items():
            daemon.until(lambda m=metric, on=labels: is_in_use(daemon, m, on))  # type: ignore[misc]


@pytest.mark.slow
def test_the_same_is_said_under_a_grammar_that_lets_it_be(plain: list[str]) -> None:
    with box({"concurrency": "4"}) as daemon:
        assert answers(daemon, together=True, guided_regex="(?s).*") == plain


@pytest.mark.slow
def test_the_same_is_said_after_a_restart(plain: list[str]) -> None:
    """Prefixes come back from disk, and bring no other words with them."""
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        config = configured(Path(folder), FEATURES["prefixes on disk"])
        for is_again in (False, True):
            with running(Path(folder), "--config", str(config)) as daemon:
                assert answers(daemon, together=False) == plain
                if is_again:
                    daemon.until(lambda: figure(daemon, RECALLS, tier="disk") > 0)
                daemon.process.terminate()
                daemon.process.wait(20)
