"""A small real server of OpenAI's API on loopback: counts words, waits as told, streams word by word."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class FakeOpenAI:
    """What it is to do, and what it was asked."""

    dialect: str = "vllm"  # of /tokenize; or "llama-server"
    first_token_seconds: float = 0.02
    token_seconds: float = 0.002
    counts_usage: bool = True
    fails: Callable[[int], str | None] = lambda _: None  # request number -> "429", "cut", "event"
    requests: list[dict[str, Any]] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.post("/v1/completions", self._generate),
                web.post("/v1/chat/completions", self._generate),
                web.post("/tokenize", self._tokenize),
                web.get("/readyz", self._ready),
            ]
        )
        return app

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Its address while it runs."""
        runner = web.AppRunner(self.app(), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "fake"}]})

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = "prompt" if self.dialect == "vllm" else "content"
        if name not in body and self.dialect == "vllm":
            return web.json_response({"error": {"code": "missing"}}, status=400)
        return web.json_response({"tokens": tokens_of(body.get(name, ""))})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        failure = self.fails(len(self.requests) - 1)
        if failure == "429":
            return web.json_response({"error": {"code": "queue_full"}}, status=429)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        chat = "messages" in body
        if chat:
            await answer.write(event({"choices": [{"delta": {"role": "assistant"}}]}))
        await asyncio.sleep(self.first_token_seconds)
        for i in range(body["max_tokens"]):
            if failure == "cut" and i == 2:
                assert request.transport is not None
                request.transport.abort()
                return answer
            if failure == "event" and i == 2:
                await answer.write(event({"error": {"code": "engine_failed"}}))
                return answer
            choice = {"delta": {"content": f"w{i} "}} if chat else {"text": f"w{i} "}
            await answer.write(event({"choices": [choice]}))
            await asyncio.sleep(self.token_seconds)
        await answer.write(event({"choices": [{"text": "", "finish_reason": "length"}]}))
        if self.counts_usage:
            usage = {
                "prompt_tokens": prompt_tokens(body),
                "completion_tokens": body["max_tokens"],
                "prompt_tokens_details": {"cached_tokens": 3},
            }
            await answer.write(event({"choices": [], "usage": usage}))
        await answer.write(b"data: [DONE]\n\n")
        return answer


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def tokens_of(text: str) -> list[int]:
    """A token for every three letters of a word, and one for its rest."""
    return [i for word in text.split() for i in range(-(-len(word) // 3))]


def prompt_tokens(body: dict[str, Any]) -> int:
    if "messages" in body:
        return sum(len(tokens_of(message["content"])) for message in body["messages"])
    prompt = body["prompt"]
    return len(prompt) if isinstance(prompt, list) else len(tokens_of(prompt))
