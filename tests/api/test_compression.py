"""Compression: negotiated, each event readable as it arrives, and nothing of it on the machine itself."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import brotli
import pytest
from api_server import ApiServer
from backports import zstd
from fake_serving import FakeServing, spell

from hearthd import wire
from hearthd.api.compression import choose
from hearthd.api.keys import ApiOptions

CHAT = {"model": "canary", "messages": [{"role": "user", "content": "Q"}]}
PATH = "/v1/chat/completions"
UNPACKERS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    "gzip": lambda: zlib.decompressobj(wbits=31).decompress,
    "br": lambda: brotli.Decompressor().process,
    "zstd": lambda: zstd.ZstdDecompressor().decompress,
}


@pytest.fixture
async def http(serving: FakeServing) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        ApiServer(serving, options=ApiOptions(compress_local=True)) as server,
        aiohttp.ClientSession(server.url, auto_decompress=False) as session,
    ):
        yield session


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("GZIP;Q=1.0, br;q=0.5", "gzip"),
        ("*", "zstd"),
        ("zstd;q=0, *;q=0.3", "br"),
        ("gzip;q=0", None),
        ("gzip;q=x, br;q=0.001", "br"),
        (",;,", None),
    ],
)
def test_the_choice(accept: str | None, coding: str | None) -> None:
    assert choose(accept) == coding


@pytest.mark.parametrize("coding", UNPACKERS)
async def test_whole_answers(
    http: aiohttp.ClientSession, serving: FakeServing, coding: str
) -> None:
    serving.script = spell("long " * 500, "answer")
    async with http.post(PATH, json=CHAT, headers={"Accept-Encoding": coding}) as response:
        assert response.headers["Content-Encoding"] == coding
        assert response.headers["Vary"] == "Accept-Encoding"
        packed = await response.read()
    assert len(packed) < 600
    answer = json.loads(UNPACKERS[coding]()(packed))
    assert answer["choices"][0]["message"]["content"].endswith("long answer")


@pytest.mark.parametrize("coding", UNPACKERS)
async def test_each_event_can_be_read_when_it_arrives(
    http: aiohttp.ClientSession, serving: FakeServing, coding: str
) -> None:
    go_on = asyncio.Event()

    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        yield wire.Delta(submit.rid, "first", [1])
        await go_on.wait()
        yield wire.Delta(submit.rid, "second", [2], finish="stop")

    serving.script = script
    unpack = UNPACKERS[coding]()
    body = {**CHAT, "stream": True}
    async with http.post(PATH, json=body, headers={"Accept-Encoding": coding}) as response:
        assert response.headers["Content-Encoding"] == coding
        text = b""
        while b"first" not in text:
            text += unpack(await response.content.readany())
        assert text.endswith(b"\n\n")
        go_on.set()
        async for data in response.content.iter_any():
            text += unpack(data)
    assert text.endswith(b"data: [DONE]\n\n")
    assert b"second" in text


async def test_streams_are_whole_for_clients_that_unpack_by_themselves(
    http: aiohttp.ClientSession, serving: FakeServing
) -> None:
    body = {**CHAT, "stream": True}
    async with http.post(PATH, json=body, headers={"Accept-Encoding": "gzip"}) as response:
        assert gzip.decompress(await response.read()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("coding", UNPACKERS)
async def test_requests_may_be_packed(http: aiohttp.ClientSession, coding: str) -> None:
    pack = {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstd.compress}[coding]
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    async with http.post(PATH, data=pack(json.dumps(CHAT).encode()), headers=headers) as response:
        assert response.status == 200


async def test_small_answers_and_those_nobody_wants_packed_are_plain(
    http: aiohttp.ClientSession, serving: FakeServing
) -> None:
    async with http.post(PATH, json=CHAT, headers={"Accept-Encoding": "gzip"}) as response:
        assert "Content-Encoding" not in response.headers
        assert json.loads(await response.read())["choices"]
    serving.script = spell("long " * 500)
    async with http.post(PATH, json=CHAT, headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers


async def test_nothing_is_packed_on_the_machine_itself(
    server: ApiServer, serving: FakeServing
) -> None:
    serving.script = spell("long " * 500)
    async with server.http() as http:
        for body in (CHAT, {**CHAT, "stream": True}):
            headers = {"Accept-Encoding": "gzip, br, zstd"}
            async with http.post(PATH, json=body, headers=headers) as response:
                assert "Content-Encoding" not in response.headers
