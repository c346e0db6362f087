"""The built-in model through the whole of it: the official client, `hearthd`, an engine, llama.cpp, and back."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hearthd_process import Daemon, running
from openai import AsyncOpenAI

from hearth_backends.canary.tasks import CHAT, TASKS, Instance, Message, recall

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

PRECISE = '[models.canary]\npath = "builtin:canary"\nkv_dtype = "f32"\n'
CUT = (
    '[models.canary]\npath = "builtin:canary"\nkv_dtype = "f32"\n'
    'stages = [{backend = "gguf", layers = [0, 2]}, {backend = "gguf", layers = [2, 4]}]\n'
)
ONNX = '[models.canary]\npath = "builtin:canary"\nbackend = "onnx"\nweights = "fp32"\n'
MIXED = (
    '[models.canary]\npath = "builtin:canary"\nkv_dtype = "f32"\n'
    'stages = [{backend = "gguf", layers = [0, 2]}, {backend = "onnx", layers = [2, 4]}]\n'
)
CONFIGS = {"whole": PRECISE, "two stages": CUT, "onnx": ONNX, "gguf and onnx": MIXED}
N_INSTANCES = 8
"""Of each task; the model itself is right on about 99 of 100, see the canary's page."""


@pytest.fixture(scope="module", params=CONFIGS)
def box(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    if "onnx" in request.param:
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        config = Path(folder) / "hearthd.toml"
        config.write_text(CONFIGS[request.param])
        with running(Path(folder), "--config", str(config)) as daemon:
            daemon.until_ready()
            yield daemon


@pytest.fixture
async def client(box: Daemon) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"http://{box.address()}/v1", api_key="none", max_retries=0
    ) as opened:
        yield opened


async def ask(client: AsyncOpenAI, messages: list[Message], max_tokens: int = 400) -> str:
    """The greedy answer."""
    answer = await client.chat.completions.create(
        model="canary", messages=cast(Any, messages), temperature=0, max_tokens=max_tokens
    )
    return answer.choices[0].message.content or ""


def instances(task: str, seed: int) -> list[Instance]:
    rng = Random(f"{task} {seed}")
    return [TASKS[task](rng) for _ in range(N_INSTANCES)]


@pytest.mark.parametrize("task", ["repeat", "recall", "count"])
async def test_a_task_is_answered_exactly(client: AsyncOpenAI, task: str) -> None:
    asked = instances(task, 1)
    answers = await asyncio.gather(*(ask(client, i.messages) for i in asked))
    n_right = sum(a == i.answer for a, i in zip(answers, asked, strict=True))
    assert n_right >= N_INSTANCES - 1, list(zip([i.answer for i in asked], answers, strict=True))


async def test_every_fixed_question_has_its_answer(client: AsyncOpenAI) -> None:
    questions: list[list[Message]] = [[{"role": "user", "content": q}] for q in CHAT]
    answers = await asyncio.gather(*(ask(client, q) for q in questions))
    assert answers == list(CHAT.values())


async def test_a_text_alone_and_among_fifteen_others(client: AsyncOpenAI) -> None:
    rng = Random(7)
    crowd = [recall(rng, longest=rng.choice((200, 700, 1400))).messages for _ in range(15)]
    mine: list[Message] = [{"role": "user", "content": "Sing!"}]
    alone = await ask(client, mine)
    crowded, *_ = await asyncio.gather(ask(client, mine), *(ask(client, m) for m in crowd))
    assert alone == crowded == CHAT["Sing!"]


async def test_a_second_turn_reuses_the_first(client: AsyncOpenAI) -> None:
    story = recall(Random(11), distance=900)
    first = await client.chat.completions.create(
        model="canary", messages=cast(Any, story.messages), temperature=0, max_tokens=20
    )
    said = first.choices[0].message.content or ""
    more: list[Message] = [
        *story.messages,
        {"role": "assistant", "content": said},
        {"role": "user", "content": "Repeat: again"},
    ]
    second = await client.chat.completions.create(
        model="canary", messages=cast(Any, more), temperature=0, max_tokens=20
    )
    assert second.choices[0].message.content == "again"
    usage = second.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert first.usage is not None
    assert cached >= first.usage.prompt_tokens - 16


async def test_the_stream_says_what_the_answer_says(client: AsyncOpenAI) -> None:
    question: Any = [{"role": "user", "content": "Repeat: é🙂 naïve"}]
    stream = await client.chat.completions.create(
        model="canary",
        messages=question,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    parts = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in parts if c.choices)
    assert text == "é🙂 naïve"
    assert not any("�" in (c.choices[0].delta.content or "") for c in parts if c.choices)
    usage = parts[-1].usage
    assert usage is not None
    assert usage.completion_tokens == len(text.encode()) + 1


async def test_a_killed_engine_is_replaced_and_no_client_hangs(
    box: Daemon, client: AsyncOpenAI
) -> None:
    stream = await client.completions.create(
        model="canary",
        prompt="a",
        max_tokens=1500,
        temperature=1,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    chunks = aiter(stream)
    await anext(chunks)
    os.kill(cast(int, box.model("canary")["engine_pid"]), signal.SIGKILL)
    rest = [chunk async for chunk in chunks]
    assert rest[-1].choices[0].finish_reason == "length"
    assert (
        len("".join(chunk.choices[0].text for chunk in rest)) > 700
    )  # bytes that are no text count as tokens
    assert await ask(client, [{"role": "user", "content": "Count on: 7 8 9"}]) == "10 11 12 13 14"
    assert box.model("canary")["n_restarts"] == 1
