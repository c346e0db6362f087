"""A small real HTTP server with the shapes of a Hearth box, on a TCP port and a Unix socket at once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

MODEL: dict[str, Any] = {
    "id": "canary",
    "object": "model",
    "created": 1,
    "owned_by": "hearth",
    "hearth": {
        "state": "ready",
        "digest": "sha256:0123456789abcdef",
        "architecture": "llama",
        "quantization": "F16",
        "n_parameters": 812_000,
        "context": 2048,
        "concurrency": 16,
        "kv_tokens": 32768,
        "backend": "gguf",
        "n_running": 1,
        "n_waiting": 2,
        "kv_tokens_free": 16384,
        "n_restarts": 3,
        "engine_pid": 4242,
        "engine_rss_bytes": 123 * 1024 * 1024,
    },
}
USAGE: dict[str, Any] = {
    "prompt_tokens": 7,
    "completion_tokens": 3,
    "total_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4},
}


class FakeBox:
    """Answers what a test has laid down in its attributes, and remembers what it was asked."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.url = ""
        self.models: list[dict[str, Any]] = [MODEL]
        self.ready: dict[str, Any] = {
            "ready": True,
            "models": [{"name": "canary", "state": "ready"}],
        }
        self.devices: dict[str, Any] = {"devices": []}
        self.pieces = ["Hello", ", wor", "ld"]
        self.piece_seconds = 0.0
        self.endless = False  # the last piece comes again and again
        self.refusal: tuple[int, dict[str, Any], dict[str, str]] | None = None
        self.dies = False  # after the last piece, without a word
        self.stream_end: list[str] | None = None  # raw events instead of finish, usage and [DONE]
        self.requests: list[dict[str, Any]] = []
        self.key: str | None = None  # that every request must have
        self.authorizations: list[str | None] = []  # of all requests
        self.answers: dict[str, tuple[int, object]] = {}  # "METHOD PATH": status and JSON
        self.n_answering = 0  # chats under way
        self.streaming = threading.Event()  # a first piece was sent
        self.cancelled = threading.Event()  # a client went before its answer was whole

    def app(self) -> web.Application:
        """The routes of a box."""
        app = web.Application(middlewares=[self._admit])
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/api/v1/devices", self._devices)
        app.router.add_get("/version", self._version)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_route("*", "/{rest:.*}", self._scripted)
        return app

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        sent = request.headers.get("Authorization")
        self.authorizations.append(sent)
        if self.key is None or sent == f"Bearer {self.key}":
            return await handler(request)
        code = "missing_api_key" if sent is None else "invalid_api_key"
        error = {"message": "The key is not one of those that were given out", "code": code}
        return web.json_response({"error": error}, status=401)

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": self.models})

    async def _readyz(self, request: web.Request) -> web.Response:
        return web.json_response(self.ready, status=200 if self.ready["ready"] else 503)

    async def _devices(self, request: web.Request) -> web.Response:
        return web.json_response(self.devices)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "0.1.0"})

    async def _scripted(self, request: web.Request) -> web.Response:
        if request.can_read_body:
            self.requests.append(await request.json())
        answer = self.answers.get(f"{request.method} {request.rel_url.raw_path}")
        if answer is None:
            raise web.HTTPNotFound
        return web.json_response(answer[1], status=answer[0])

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if self.refusal is not None:
            status, error, headers = self.refusal
            return web.json_response({"error": error}, status=status, headers=headers)
        if not body.get("stream"):
            return web.json_response(self._whole())
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        self.n_answering += 1
        try:
            await response.prepare(request)
            await self._stream(response)
            if self.dies and request.transport is not None:
                request.transport.abort()
        except (asyncio.CancelledError, ConnectionResetError):
            self.cancelled.set()
            raise
        finally:
            self.n_answering -= 1
        return response

    def _whole(self) -> dict[str, Any]:
        message = {"role": "assistant", "content": "".join(self.pieces)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"model": "canary", "choices": [choice], "usage": USAGE}

    async def _stream(self, response: web.StreamResponse) -> None:
        await response.write(_chunk({"role": "assistant", "content": ""}))
        for piece in self.pieces:
            await response.write(b": still here\n\n" + _chunk({"content": piece}))
            self.streaming.set()
            await asyncio.sleep(self.piece_seconds)
        while self.endless:
            await response.write(_chunk({"content": self.pieces[-1]}))
            await asyncio.sleep(0.02)
        if self.dies:
            return
        if self.stream_end is not None:
            for data in self.stream_end:
                await response.write(f"data: {data}\n\n".encode())
            return
        await response.write(_chunk({}, "stop"))
        await response.write(_event({"model": "canary", "choices": [], "usage": USAGE}))
        await response.write(b"data: [DONE]\n\n")


@contextmanager
def serving(box: FakeBox) -> Iterator[FakeBox]:
    """Serve on both addresses, on a loop of its own, until the context is left."""
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(box.app(), shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        tcp = web.TCPSite(runner, "127.0.0.1", 0)
        await tcp.start()
        await web.UnixSite(runner, str(box.socket)).start()
        host, port = runner.addresses[0][:2]
        box.url = f"http://{host}:{port}"
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield box
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _event({"model": "canary", "choices": [choice], "usage": None})


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
