"""The official client against a real `hearthd` with real engines, over TCP and over the socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx2
import pytest
from hearthd_process import Daemon, running
from openai import AsyncOpenAI, BadRequestError, NotFoundError

CONFIG = """
[models.noise]
path = "sim:context=512"
[models.echo]
path = "sim:says=echo,bos=1"
[models.slow]
path = "sim:latency_ms=20"
concurrency = 1
[models.broken]
path = "sim:fail_load=the file is truncated"
"""


def states(daemon: Daemon) -> list[str]:
    """Of its models; a box with a broken one is never ready."""
    status, said = daemon.get("/readyz")
    assert status == 503
    return [model["state"] for model in said["models"]]


@pytest.fixture(scope="module")
def box() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        config = Path(folder) / "hearthd.toml"
        config.write_text(CONFIG)
        with running(Path(folder), "--config", str(config)) as daemon:
            daemon.until(lambda: set(states(daemon)) <= {"ready", "failed"})
            yield daemon


@pytest.fixture(params=["tcp", "unix"])
async def openai(box: Daemon, request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    uds = str(box.socket) if request.param == "unix" else None
    async with (
        httpx2.AsyncClient(transport=httpx2.AsyncHTTPTransport(uds=uds)) as http,
        AsyncOpenAI(
            base_url=f"http://{box.address()}/v1", api_key="none", max_retries=0, http_client=http
        ) as client,
    ):
        yield client


@pytest.fixture
async def http(box: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{box.address()}") as session:
        yield session


def _said(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def test_a_chat_whole_and_streamed(openai: AsyncOpenAI) -> None:
    text = "Grüße, wörld 🌍!"
    answer = await openai.chat.completions.create(model="echo", messages=_said(text), temperature=0)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"
    stream = await openai.chat.completions.create(
        model="echo",
        messages=_said(text),
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert answer.usage is not None
    assert last.usage is not None
    assert last.usage.total_tokens == answer.usage.total_tokens


async def test_the_same_seed_gives_the_same_answer_and_choices_differ(openai: AsyncOpenAI) -> None:
    async def ask(**fields: Any) -> list[str]:
        answer = await openai.completions.create(
            model="noise", prompt="Once", max_tokens=20, extra_body={"ignore_eos": True}, **fields
        )
        return [choice.text for choice in answer.choices]

    three = await ask(seed=7, n=3)
    assert len(set(three)) == 3
    assert await ask(seed=7, n=3) == three
    assert await ask(seed=7) == three[:1]
    assert await ask() != await ask()


async def test_choices_of_prompts(openai: AsyncOpenAI) -> None:
    answer = await openai.completions.create(
        model="noise", prompt=["one", "three"], n=2, seed=1, max_tokens=5, temperature=0
    )
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("one") + len("three")


async def test_text_and_its_tokens_are_the_same_prompt(openai: AsyncOpenAI) -> None:
    by_text = await openai.completions.create(model="noise", prompt="hello", temperature=0)
    by_tokens = await openai.completions.create(model="noise", prompt=list(b"hello"), temperature=0)
    assert by_text.choices[0].text == by_tokens.choices[0].text
    assert by_text.usage == by_tokens.usage


async def test_echo_scores_the_prompt_as_it_would_be_generated(openai: AsyncOpenAI) -> None:
    generated = await openai.completions.create(
        model="noise", prompt="hello", temperature=0, max_tokens=6, logprobs=3
    )
    text = "hello" + generated.choices[0].text
    scored = await openai.completions.create(
        model="noise", prompt=text, max_tokens=0, echo=True, logprobs=3
    )
    (choice,) = scored.choices
    assert choice.text == text
    assert choice.logprobs is not None
    assert generated.choices[0].logprobs is not None
    assert choice.logprobs.tokens == list(text)
    assert choice.logprobs.text_offset == list(range(len(text)))
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[5:] == pytest.approx(
        generated.choices[0].logprobs.token_logprobs, abs=1e-4
    )
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0


@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_echo_of_a_single_token(openai: AsyncOpenAI, max_tokens: int) -> None:
    answer = await openai.completions.create(
        model="noise",
        prompt="x",
        max_tokens=max_tokens,
        echo=True,
        logprobs=0,
        temperature=0,
        extra_body={"min_tokens": max_tokens},
    )
    (choice,) = answer.choices
    assert choice.text.startswith("x")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == list(choice.text)
    assert choice.logprobs.token_logprobs is not None
    assert len(choice.logprobs.token_logprobs) == 1 + max_tokens
    assert choice.logprobs.token_logprobs[0] is None


async def test_echo_is_part_of_a_stream(openai: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {
        "model": "noise", "prompt": "hello", "max_tokens": 4, "echo": True, "temperature": 0,
        "logprobs": 1,
    }  # fmt: skip
    whole = (await openai.completions.create(**fields)).choices[0]
    stream = await openai.completions.create(**fields, stream=True)
    parts = [chunk.choices[0] async for chunk in stream]
    assert "".join(part.text for part in parts) == whole.text
    assert whole.logprobs is not None
    offsets = [at for part in parts if part.logprobs for at in part.logprobs.text_offset or []]
    assert offsets == whole.logprobs.text_offset


async def test_stop_strings_never_leak(openai: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {
        "model": "echo", "messages": _said("one two three"), "temperature": 0,
    }  # fmt: skip
    stream = await openai.chat.completions.create(**fields, stop=[" three", "zzz"], stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    assert "".join(choice.delta.content or "" for choice in choices) == "one two"
    assert choices[-1].finish_reason == "stop"
    answer = await openai.chat.completions.create(
        **fields, stop="two", extra_body={"include_stop_str_in_output": True}
    )
    assert answer.choices[0].message.content == "one two"
    assert answer.choices[0].model_dump()["stop_reason"] == "two"


async def test_min_tokens_ignore_eos_and_the_limit(openai: AsyncOpenAI) -> None:
    fields: dict[str, Any] = {"model": "echo", "messages": _said("hi"), "temperature": 0}
    short = await openai.chat.completions.create(**fields, max_tokens=20)
    assert short.usage is not None
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("stop", 3)
    for extra in ({"ignore_eos": True}, {"min_tokens": 20}):
        answer = await openai.chat.completions.create(**fields, max_tokens=20, extra_body=extra)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 20


async def test_what_was_computed_before_is_cached(openai: AsyncOpenAI) -> None:
    prompt = "a long prefix that two requests share " * 4
    cached = []
    for _ in range(2):
        answer = await openai.completions.create(model="noise", prompt=prompt, max_tokens=1)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        cached.append(answer.usage.prompt_tokens_details.cached_tokens or 0)
    assert cached[1] >= 128


async def test_a_prompt_that_is_too_long(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match=r"512 tokens.*600") as caught:
        await openai.completions.create(model="noise", prompt="x" * 590, max_tokens=10)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "prompt"


async def test_tokens_that_no_vocabulary_has(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="outside the vocabulary"):
        await openai.completions.create(model="noise", prompt=[1, 100_000])
    with pytest.raises(BadRequestError, match="logit_bias"):
        await openai.completions.create(model="noise", prompt="x", logit_bias={"100000": 1})


async def test_a_model_that_nobody_has_lists_those_there_are(openai: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError, match="there are: broken, echo, noise, slow"):
        await openai.completions.create(model="gpt-4o", prompt="x")


async def test_a_failed_model_says_why_and_disturbs_nothing(http: aiohttp.ClientSession) -> None:
    body = {"model": "broken", "prompt": "x"}
    async with http.post("/v1/completions", json=body) as answer:
        assert answer.status == 503
        error = (await answer.json())["error"]
    assert error["code"] == "model_failed"
    assert "the file is truncated" in error["message"]
    async with http.get("/v1/models/broken") as answer:
        assert "the file is truncated" in (await answer.json())["hearth"]["error"]


async def test_there_and_back_in_tokens(http: aiohttp.ClientSession) -> None:
    text = "Grüße 🌍"
    body = {"model": "echo", "prompt": text, "return_token_strs": True}
    async with http.post("/tokenize", json=body) as answer:
        encoded = await answer.json()
    assert encoded["token_strs"][0] == "<|bos|>"
    assert encoded["count"] == 1 + len(text.encode())
    body = {"model": "echo", "tokens": encoded["tokens"][1:]}
    async with http.post("/detokenize", json=body) as answer:
        assert await answer.json() == {"prompt": text}
    async with http.post(
        "/tokenize", json={"model": "echo", "messages": _said("hi"), "return_token_strs": True}
    ) as answer:
        assert "<|im_start|>" in (await answer.json())["token_strs"]


async def test_a_client_that_goes_frees_the_only_slot(
    box: Daemon, http: aiohttp.ClientSession
) -> None:
    endless = {
        "model": "slow", "prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True,
    }  # fmt: skip
    async with http.post("/v1/completions", json=endless) as answer:
        await answer.content.readany()
    async with asyncio.timeout(5):
        body = {"model": "slow", "prompt": "x", "max_tokens": 2}
        async with http.post("/v1/completions", json=body) as answer:
            assert answer.status == 200


async def test_the_metrics_saw_it(http: aiohttp.ClientSession) -> None:
    body = {"model": "noise", "prompt": "x", "max_tokens": 3}
    async with http.post("/v1/completions", json=body) as answer:
        assert answer.status == 200
    async with http.get("/metrics") as answer:
        text = await answer.text()
    assert 'hearth_ttft_seconds_count{backend="sim",class="normal",model="noise"}' in text
    assert 'hearth_model_up{model="broken"} 0.0' in text
