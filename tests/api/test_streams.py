"""Streams on the wire: framing, one write for each step, keep-alive, errors before and after the start."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from api_server import ApiServer
from fake_serving import DIGEST, FakeServing, spell
from openai import APIError, AsyncOpenAI

from hearthd import wire
from hearthd.api.keys import ApiOptions
from hearthd.errors import EngineFailed, InvalidRequest, Overloaded

BODY: dict[str, Any] = {"model": "canary", "prompt": "x", "stream": True}


def _events(text: str) -> list[str]:
    """The data of each event; comments are left out."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


async def test_the_framing(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/completions", json=BODY) as answer:
        text = await answer.text()
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["X-Model-Digest"] == DIGEST
        assert answer.headers["X-Request-Id"].startswith("req-")
    *chunks, done = _events(text)
    assert done == "[DONE]"
    assert [json.loads(chunk)["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo"]


async def test_the_first_token_leaves_at_once(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    may_go_on = asyncio.Event()

    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        yield wire.Delta(submit.rid, "a", [1], usage=wire.Usage(1, 1, 0))
        await may_go_on.wait()
        yield wire.Delta(submit.rid, "b", [2], finish="stop", usage=wire.Usage(1, 2, 0))

    serving.script = script
    async with http.post("/v1/chat/completions", json={**_chat(), "stream": True}) as answer:
        first = await asyncio.wait_for(answer.content.readany(), 5)
        events = [json.loads(event) for event in _events(first.decode())]
        deltas = [event["choices"][0]["delta"] for event in events]
        assert deltas == [{"role": "assistant", "content": ""}, {"content": "a"}], (
            "role and text of one step are one write"
        )
        may_go_on.set()
        rest = await answer.content.read()
    assert _events(rest.decode())[-1] == "[DONE]"


def _chat() -> dict[str, Any]:
    return {"model": "canary", "messages": [{"role": "user", "content": "x"}]}


async def test_a_delta_that_shows_nothing_is_no_event(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    serving.script = spell("", "", "x")
    async with http.post("/v1/completions", json=BODY) as answer:
        assert len(_events(await answer.text())) == 2


async def test_silence_is_filled_with_comments(serving: FakeServing) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        await asyncio.sleep(0.25)
        yield wire.Delta(submit.rid, "a", [1], usage=wire.Usage(1, 1, 0))
        await asyncio.sleep(0.15)
        yield wire.Delta(submit.rid, "b", [2], finish="stop", usage=wire.Usage(1, 2, 0))

    serving.script = script
    options = ApiOptions(keep_alive_seconds=0.1)
    async with (
        ApiServer(serving, options=options) as server,
        server.http() as http,
        http.post("/v1/completions", json=BODY) as answer,
    ):
        text = await answer.text()
    before, _, after = text.partition('"text":"a"')
    assert before.count(": still here") == 2
    assert after.count(": still here") == 1
    assert _events(text)[-1] == "[DONE]"


@pytest.mark.parametrize("error", [Overloaded("full"), InvalidRequest("too long", param="prompt")])
async def test_an_error_before_the_start_is_a_status(
    serving: FakeServing, http: aiohttp.ClientSession, error: Overloaded | InvalidRequest
) -> None:
    async def script(_submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        await asyncio.sleep(0)
        raise error
        yield

    serving.script = script
    async with http.post("/v1/completions", json=BODY) as answer:
        assert answer.status == error.status
        assert answer.content_type == "application/json"
        assert (await answer.json())["error"]["message"] == error.message


async def test_an_error_after_the_start_is_the_last_event(
    serving: FakeServing, http: aiohttp.ClientSession, openai: AsyncOpenAI
) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        yield wire.Delta(submit.rid, "a", [1], usage=wire.Usage(1, 1, 0))
        raise EngineFailed("the engine died")

    serving.script = script
    async with http.post("/v1/completions", json=BODY) as answer:
        assert answer.status == 200
        first, last = _events(await answer.text())
    assert json.loads(first)["choices"][0]["text"] == "a"
    assert json.loads(last) == {
        "error": {
            "message": "the engine died",
            "type": "server_error",
            "param": None,
            "code": "engine_failed",
        }
    }
    stream = await openai.completions.create(model="canary", prompt="x", stream=True)
    with pytest.raises(APIError, match="the engine died"):
        async for _ in stream:
            pass


async def test_an_error_of_one_choice_ends_the_others(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        yield wire.Delta(submit.rid, "a", [1], usage=wire.Usage(1, 1, 0))
        await asyncio.sleep(0.05)
        if submit.rid == 2:
            raise EngineFailed("the engine died")
        await asyncio.sleep(60)

    serving.script = script
    async with http.post("/v1/completions", json={**BODY, "n": 3}) as answer:
        events = _events(await answer.text())
    assert json.loads(events[-1])["error"]["code"] == "engine_failed"
    assert sorted(serving.left) == [1, 3]


async def test_an_end_that_is_no_answer_is_an_error(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    serving.script = spell("a", "b", finish="cancelled")
    async with http.post("/v1/completions", json={**BODY, "stream": False}) as answer:
        assert answer.status == 500
        assert (await answer.json())["error"]["code"] == "engine_failed"


async def test_what_nobody_foresaw_ends_a_stream_with_an_event_too(
    serving: FakeServing, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        yield wire.Delta(submit.rid, "a", [1], usage=wire.Usage(1, 1, 0))
        broken = wire.TokenLogprob(2, None, 0.0)  # type: ignore[arg-type]  # broken on purpose
        yield wire.Delta(submit.rid, "b", [2], logprobs=[broken])

    serving.script = script
    headers = {"X-Request-Id": "r1"}
    body = {**BODY, "logprobs": 0}
    async with http.post("/v1/completions", json=body, headers=headers) as answer:
        last = _events(await answer.text())[-1]
    assert "r1" in json.loads(last)["error"]["message"]
    assert "Traceback" in caplog.text
