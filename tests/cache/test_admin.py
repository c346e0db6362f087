"""The cache's own addresses: a key sees and drops its own answers only, and takes none out or in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from api_server import ApiServer
from cached import Cached
from cached_http import CHAT, key, post
from fake_serving import FakeServing, spell

from hearthd.access.keyring import Keyring

ANN = {"Authorization": "Bearer ann"}
BOB = {"Authorization": "Bearer bob"}


@pytest.fixture
async def http(cached: Cached, serving: FakeServing) -> AsyncIterator[aiohttp.ClientSession]:
    serving.script = spell("Hel", "lo")
    keyring = Keyring({"ann": key("ann"), "bob": key("bob")})
    async with (
        ApiServer(serving, cache=cached.cache, keyring=keyring) as server,
        server.http() as session,
    ):
        for who in (ANN, BOB, {}):
            await post(session, CHAT, **who)
        await cached.settled()
        yield session


async def ask(
    http: aiohttp.ClientSession, method: str, path: str, status: int = 200, **details: Any
) -> Any:
    async with http.request(method, f"/api/v1/cache{path}", **details) as response:
        assert response.status == status, await response.text()
        return json.loads(await response.read())


async def test_keys_see_their_own(http: aiohttp.ClientSession) -> None:
    everything = await ask(http, "GET", "")
    assert {scope["partition"] for scope in everything["scopes"]} == {
        "key:ann", "key:bob", "key:anonymous",
    }  # fmt: skip
    assert everything["results"] == {"canary": {"MISS": 3}}
    own = await ask(http, "GET", "", headers=ANN)
    assert [scope["partition"] for scope in own["scopes"]] == ["key:ann"]
    assert own["results"] == {}
    listed = await ask(http, "GET", "/answers", headers=BOB)
    assert [(one["partition"], one["question"]) for one in listed["answers"]] == [("key:bob", "Q")]
    assert len((await ask(http, "GET", "/answers"))["answers"]) == 3


async def test_keys_drop_their_own(http: aiohttp.ClientSession) -> None:
    await post(http, CHAT, **ANN)  # now also in memory
    everybodys = (await ask(http, "GET", "/answers"))["answers"]
    for answer in everybodys:
        await ask(http, "DELETE", f"/answers?key={answer['key']}", headers=ANN)
    assert (await post(http, CHAT, **ANN))[0] == "MISS"
    assert (await post(http, CHAT, **BOB))[0] == "HIT"
    assert await ask(http, "DELETE", "/answers?all=true", headers=BOB) == {"dropped": 1}
    assert (await post(http, CHAT))[0] == "HIT"


async def test_keys_take_nothing_out_or_in(http: aiohttp.ClientSession) -> None:
    await ask(http, "GET", "/export", 403, headers=ANN)
    await ask(http, "POST", "/import", 403, headers=ANN, data=b"")


async def test_wrong_questions(http: aiohttp.ClientSession) -> None:
    for method, path in (
        ("GET", "/answers?order=size"),
        ("GET", "/answers?limit=0"),
        ("GET", f"/answers?limit={'9' * 5000}"),
        ("GET", "/answers?limit=\u0663"),
        ("GET", "/answers?key=zz"),
        ("GET", "/answers?key=abc"),
        ("DELETE", "/answers"),
    ):
        error = await ask(http, method, path, 400)
        assert error["error"]["code"] == "invalid_value"


async def test_off_is_told(serving: FakeServing) -> None:
    async with ApiServer(serving) as server, server.http() as session:
        assert (await ask(session, "GET", ""))["enabled"] is False
        assert (await ask(session, "GET", "/answers", 400))["error"]["code"] == "cache_off"
