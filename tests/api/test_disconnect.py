"""A client that goes frees its requests at once: streaming or not, waiting or served, TCP or socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_server import ApiServer
from fake_serving import FakeServing

from hearthd import wire


async def _silence(_submit: wire.Submit) -> AsyncIterator[wire.Delta]:
    """A request that waits in the queue."""
    await asyncio.sleep(60)
    yield wire.Delta(rid=0)


async def _chatter(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
    """A request that has begun to answer and goes on for long."""
    for i in range(10_000):
        yield wire.Delta(submit.rid, "x", [i], usage=wire.Usage(1, 1, 0) if not i else None)
        await asyncio.sleep(0.005)


async def _ask(server: ApiServer, socket: Path | None, **fields: object) -> asyncio.StreamWriter:
    """Send a request and return without having read anything."""
    if socket is None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
    else:
        _, writer = await asyncio.open_unix_connection(str(socket))
    body = json.dumps({"model": "canary", "prompt": "x", **fields}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: box\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return writer


@pytest.mark.parametrize("over_socket", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("script", [_silence, _chatter])
async def test_every_choice_is_left_when_the_client_goes(
    serving: FakeServing, tmp_path: Path, over_socket: bool, stream: bool, script: object
) -> None:
    serving.script = script  # type: ignore[assignment]  # one of the two above
    socket = tmp_path / "api.sock"
    async with ApiServer(serving, socket=socket) as server:
        writer = await _ask(server, socket if over_socket else None, stream=stream, n=3)
        async with asyncio.timeout(5):
            await serving.got(3)
            await asyncio.sleep(0.05)
            assert not serving.left
            writer.close()
            await writer.wait_closed()
            await serving.lost(3)
        assert sorted(serving.left) == [1, 2, 3]
        assert b'status="499"' in server.metrics.render()


async def test_a_reader_that_is_slow_is_not_gone(serving: FakeServing) -> None:
    """The socket fills, the writer waits, and nothing is lost."""
    n_deltas = 400
    text = "y" * 4000

    async def flood(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        for i in range(n_deltas):
            last = i == n_deltas - 1
            usage = wire.Usage(1, i + 1, 0) if last or not i else None
            yield wire.Delta(submit.rid, text, [i], finish="length" if last else None, usage=usage)

    serving.script = flood
    async with ApiServer(serving) as server, server.http() as http:
        body = {"model": "canary", "prompt": "x", "stream": True}
        async with http.post("/v1/completions", json=body) as answer:
            await asyncio.sleep(0.2)
            data = await answer.read()
    assert data.count(b"yyyy" * 1000) == n_deltas
    assert data.endswith(b"data: [DONE]\n\n")
    assert not serving.left
