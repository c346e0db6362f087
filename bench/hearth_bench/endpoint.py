"""Endpoint: where a server listens, and the HTTP session that reaches it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp


class EndpointError(Exception):
    """The server cannot be measured; the message says what it answered."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server of OpenAI's API; `socket` goes before `url`'s host where it is given."""

    url: str = "http://localhost"
    socket: str | None = None
    api_key: str | None = None

    @property
    def root(self) -> str:
        """The address without a trailing slash or /v1."""
        return self.url.rstrip("/").removesuffix("/v1")

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.socket or self.root

    @asynccontextmanager
    async def session(
        self, timeout_seconds: float, *, as_clients_do: bool = False
    ) -> AsyncIterator[aiohttp.ClientSession]:
        """A session with as many connections as are asked for.

        Each request has a connection of its own, since llama-server ends one after a stream, though its
        headers offer to keep it; and the cache of answers has no part in it. With `as_clients_do`
        connections are kept, and the cache is asked. `timeout_seconds` bounds the wait for the next bytes
        of an answer.
        """
        connector: aiohttp.BaseConnector
        if self.socket is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=not as_clients_do)
        else:
            connector = aiohttp.UnixConnector(
                path=self.socket, limit=0, force_close=not as_clients_do
            )
        headers = {"Content-Type": "application/json"}
        if not as_clients_do:
            headers["Cache-Control"] = "no-store"
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=timeout_seconds)
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=timeout
        ) as session:
            yield session

    async def first_model(self, session: aiohttp.ClientSession) -> str:
        """The name of the first model the server lists; raises EndpointError where it lists none."""
        async with session.get(f"{self.root}/v1/models") as answer:
            body: Any = await answer.json(content_type=None) if answer.status == 200 else {}
        models = body.get("data") or []
        if not models:
            raise EndpointError(f"{self.name} lists no model; name one with --model")
        return str(models[0]["id"])
