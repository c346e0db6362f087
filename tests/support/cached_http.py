"""Requests over HTTP to a server with a cache, and keys for it."""

from __future__ import annotations

import hashlib
from typing import Any

import aiohttp

from hearthd.config.schema import KeyConfig

CHAT: dict[str, Any] = {
    "model": "canary",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}],
    "temperature": 0,
}


def key(name: str) -> KeyConfig:
    return KeyConfig(hash=hashlib.sha256(name.encode()).hexdigest())


async def post(
    http: aiohttp.ClientSession,
    body: dict[str, Any],
    path: str = "/v1/chat/completions",
    **headers: str,
) -> tuple[str, bytes, Any]:
    """X-Cache, the body, and all headers."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with http.post(path, json=body, headers=sent) as response:
        return response.headers.get("X-Cache", ""), await response.read(), response.headers
