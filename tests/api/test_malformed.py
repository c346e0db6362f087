"""What is no HTTP request, or one that no route sees: the same JSON, a request id, and a count of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from api_server import ApiServer
from fake_serving import FakeServing

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: box\r\n"


async def say(server: ApiServer, *parts: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes, each part in a packet of its own."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(10):
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0.02)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines)}
            body = await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()
    return int(status.split()[1]), headers, body


def error_of(body: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].isprintable()
    return error


@pytest.mark.parametrize(
    "parts",
    [
        [b"nonsense\r\n\r\n"],
        [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"],
        [b"FROB /v1/models HTTP/1.1\r\nHost: box\r\n\r\n"],
        [b"GET /v1/models HTTP/9.9\r\n\r\n"],
        [b"GET /v1/models HTTP/1.1\r\nno colon here\r\n\r\n"],
        [HEAD + b"Content-Length: -4\r\n\r\n"],
        [HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"],
    ],
)
async def test_what_is_no_request(server: ApiServer, parts: list[bytes]) -> None:
    status, headers, body = await say(server, *parts)
    assert (status, headers["content-type"]) == (400, "application/json")
    error = error_of(body)
    assert error["type"] == "invalid_request_error"
    assert error["code"] in ("malformed_request", "invalid_body")
    assert headers["x-request-id"].startswith("req-")
    assert headers["server"].startswith("hearthd/")
    assert b'status="400"' in server.metrics.render()


async def test_a_bad_chunk_after_the_head(server: ApiServer) -> None:
    status, _, body = await say(
        server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\nabc\r\n"
    )
    assert status == 400
    assert error_of(body)["code"] in ("invalid_body", "malformed_request")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: box\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: box\r\nX-Long: " + b"x" * 10_000 + b"\r\n\r\n",
    ],
)
async def test_headers_without_end(server: ApiServer, head: bytes) -> None:
    status, _, body = await say(server, head)
    assert (status, error_of(body)["code"]) == (431, "headers_too_large")


async def test_an_expectation_that_nobody_meets(server: ApiServer) -> None:
    status, headers, body = await say(
        server, HEAD + b"Expect: a miracle\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert status == 400
    assert "Expectation Failed" in error_of(body)["message"]
    assert headers["x-request-id"]


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PROPFIND", "OPTIONS", "TRACE"])
async def test_methods_that_an_address_does_not_take(
    server: ApiServer, http: aiohttp.ClientSession, method: str
) -> None:
    async with http.request(method, "/v1/completions") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST"
        assert answer.content_type == "application/json"
        body = await answer.read()
    assert error_of(body)["code"] == "method_not_allowed" if method != "HEAD" else not body
    async with http.head("/v1/models") as answer:
        assert answer.status == 200
        assert not await answer.read()


async def test_the_next_request_is_none(server: ApiServer, serving: FakeServing) -> None:
    """A connection that has served one request is answered once more, and closed."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: box\r\n\r\n")
    async with asyncio.timeout(10):
        await reader.readuntil(b"}")
        writer.write(b"nonsense\r\n\r\n")
        rest = await reader.read()
    writer.close()
    assert b" 400 Bad Request" in rest
    assert b"malformed_request" in rest
