"""The cache over HTTP: headers, bytes that are those of the live answer, and the failures of other caches."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from api_server import ApiServer
from cached import Cached
from cached_http import CHAT, key, post
from fake_serving import FakeServing, spell

from hearthd.access.keyring import Keyring
from hearthd.cache.counts import CacheCollector
from hearthd.telemetry.metrics import Metrics

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


@pytest.fixture
async def http(cached: Cached, serving: FakeServing) -> AsyncIterator[aiohttp.ClientSession]:
    serving.script = spell("Hel", "lo", " Wör", "ld")
    metrics = Metrics()
    metrics.add(CacheCollector(cached.counts, lambda: cached.exact.top))
    keyring = Keyring({"ann": key("ann"), "bob": key("bob")})
    async with (
        ApiServer(serving, cache=cached.cache, keyring=keyring, metrics=metrics) as server,
        server.http() as session,
    ):
        yield session


async def twice(
    http: aiohttp.ClientSession, cached: Cached, body: dict[str, Any], path: str
) -> list[bytes]:
    """The bodies of a live answer, of the same from disk, and of the same from memory."""
    bodies = []
    for expected in ("MISS", "HIT", "HIT"):
        result, answer, _ = await post(http, body, path)
        assert result == expected
        bodies.append(answer)
        await cached.settled()
    return bodies


def without_cached_tokens(body: bytes) -> bytes:
    """But for the one number that a hit must tell otherwise."""
    return re.sub(rb'"cached_tokens":\d+', b'"cached_tokens":N', body)


REQUESTS = {
    "chat": (CHAT, "/v1/chat/completions"),
    "stream": ({**CHAT, "stream": True}, "/v1/chat/completions"),
    "choices": ({**CHAT, "stream": True, "n": 3}, "/v1/chat/completions"),
    "logprobs": (
        {**CHAT, "stream": True, "logprobs": True, "top_logprobs": 1},
        "/v1/chat/completions",
    ),
    "text": (
        {"model": "canary", "prompt": ["a", "b"], "n": 2, "temperature": 0},
        "/v1/completions",
    ),
    "text stream": (
        {"model": "canary", "prompt": "a", "temperature": 0, "stream": True, "logprobs": 1},
        "/v1/completions",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_hit_is_byte_for_byte_the_live_answer(
    http: aiohttp.ClientSession, cached: Cached, name: str
) -> None:
    body, path = REQUESTS[name]
    live, from_disk, from_memory = await twice(http, cached, body, path)
    assert from_disk == from_memory
    assert without_cached_tokens(from_disk) == without_cached_tokens(live)
    if body.get("stream"):
        assert from_disk == live  # which says nothing of usage
        assert live.count(b"data: ") > 3
    else:
        assert json.loads(from_disk)["usage"]["prompt_tokens_details"]["cached_tokens"] > 4


async def test_usage_of_a_replayed_stream_tells_that_no_prompt_was_computed(
    http: aiohttp.ClientSession, cached: Cached
) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    live, hit, _ = await twice(http, cached, body, "/v1/chat/completions")
    last = [
        json.loads(event.removeprefix(b"data: "))
        for event in hit.split(b"\n\n")
        if b"usage" in event
    ][-1]
    assert last["usage"]["prompt_tokens"] == 5
    assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == 5
    assert b'"cached_tokens":2' in live
    assert without_cached_tokens(hit) == without_cached_tokens(live)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_of_tools_keep_their_ids(
    http: aiohttp.ClientSession, cached: Cached, serving: FakeServing, stream: bool
) -> None:
    serving.script = spell(CALL[:20], CALL[20:])
    body = {**CHAT, "tools": [TOOL], "stream": stream}
    live, from_disk, from_memory = await twice(http, cached, body, "/v1/chat/completions")
    ids = re.findall(rb'"call_[0-9a-f]{24}"', live)
    assert ids
    for hit in (from_disk, from_memory):
        assert without_cached_tokens(hit) == without_cached_tokens(live)


async def test_a_stream_answers_who_does_not_stream_and_the_other_way_round(
    http: aiohttp.ClientSession, cached: Cached
) -> None:
    await post(http, {**CHAT, "stream": True})
    await cached.settled()
    result, whole, _ = await post(http, CHAT)
    assert result == "HIT"
    assert json.loads(whole)["choices"][0]["message"]["content"] == "Hello Wörld"
    result, events, _ = await post(http, {**CHAT, "stream": True, "max_tokens": None})
    assert (result, events.count(b'"content":"lo"')) == ("HIT", 1)


async def test_headers_of_hits_and_misses(http: aiohttp.ClientSession, cached: Cached) -> None:
    _, _, missed = await post(http, CHAT)
    assert "Age" not in missed
    await cached.settled()
    _, _, hit = await post(http, CHAT)
    assert int(hit["Age"]) >= 0
    assert hit["X-Model-Digest"] == missed["X-Model-Digest"]
    assert hit["X-Request-Id"] != missed["X-Request-Id"]
    result, _, _ = await post(http, {**CHAT, "temperature": 1})
    assert result == "BYPASS"
    result, body, _ = await post(http, {**CHAT, "seed": 3}, Cache_Control="only-if-cached")
    assert result == "HIT"  # greedy: the seed has no effect
    result, body, _ = await post(http, {**CHAT, "top_p": 0.5}, Cache_Control="only-if-cached")
    assert json.loads(body)["error"]["code"] == "not_cached"


async def test_the_same_question_under_another_system_prompt_is_another(
    http: aiohttp.ClientSession, cached: Cached
) -> None:
    await post(http, CHAT)
    await cached.settled()
    other = [{"role": "system", "content": "T"}, CHAT["messages"][1]]
    for messages in (other, CHAT["messages"][1:], [*CHAT["messages"], *CHAT["messages"]]):
        assert (await post(http, {**CHAT, "messages": messages}))[0] == "MISS"


async def test_keys_and_the_machine_itself_have_their_own(
    http: aiohttp.ClientSession, cached: Cached
) -> None:
    assert (await post(http, CHAT, Authorization="Bearer ann"))[0] == "MISS"
    await cached.settled()
    assert (await post(http, CHAT, Authorization="Bearer ann"))[0] == "HIT"
    assert (await post(http, CHAT, Authorization="Bearer ann"))[0] == "HIT"  # from memory
    assert (await post(http, CHAT, Authorization="Bearer bob"))[0] == "MISS"
    assert (await post(http, CHAT))[0] == "MISS"
    assert (await post(http, CHAT, Authorization="Bearer eve"))[1].startswith(b'{"error"')


async def test_another_file_under_the_name_is_another_model(
    http: aiohttp.ClientSession, cached: Cached, serving: FakeServing
) -> None:
    for _ in range(3):
        await post(http, CHAT)
        await cached.settled()
    serving.info = msgspec.structs.replace(serving.info, digest="e" * 64)
    result, _, headers = await post(http, CHAT)
    assert (result, headers["X-Model-Digest"]) == ("MISS", "e" * 64)


async def test_metrics_tell_what_it_did(http: aiohttp.ClientSession, cached: Cached) -> None:
    for _ in range(3):
        await post(http, CHAT)
        await cached.settled()
    await post(http, {**CHAT, "temperature": 1})
    async with http.get("/metrics") as response:
        text = await response.text()
    for line in (
        'hearth_cache_requests_total{model="canary",result="HIT"} 2.0',
        'hearth_cache_requests_total{model="canary",result="MISS"} 1.0',
        'hearth_cache_bypass_total{model="canary",reason="not-deterministic"} 1.0',
        'hearth_cache_saved_tokens_total{model="canary"} 18.0',
        "hearth_cache_entries 1.0",
    ):
        assert line in text


async def test_restarts_keep_what_was_said(serving: FakeServing, tmp_path: Path) -> None:
    serving.script = spell("a", "b")
    answers = []
    for _ in range(2):
        async with (
            Cached(serving, tmp_path).opened() as cached,
            ApiServer(serving, cache=cached.cache) as server,
            server.http() as session,
        ):
            answers.append(await post(session, {**CHAT, "stream": True}))
    assert [result for result, _, _ in answers] == ["MISS", "HIT"]
    assert answers[0][1] == answers[1][1]
