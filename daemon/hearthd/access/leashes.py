"""Leashes: requests under way by key, so that they end with the key that they came with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hearthd.errors import Unauthorized


class Leashes:
    """Each request has one, which whatever it does inside may take over."""

    def __init__(self) -> None:
        self._held: dict[str, dict[int, asyncio.Timeout]] = {}  # by name, by id of the request

    @asynccontextmanager
    async def held(self, name: str, request: object) -> AsyncIterator[None]:
        """Work for the key of this name; raises Unauthorized when it is cut, at the next wait.

        Within another `held` of the same request, the inner one is cut.
        """
        leash = asyncio.timeout(None)
        mine = self._held.setdefault(name, {})
        outer = mine.get(id(request))
        try:
            async with leash:
                mine[id(request)] = leash
                yield
        except TimeoutError:
            if not leash.expired():
                raise
            raise Unauthorized(f"the key {name} has been revoked", code="key_revoked") from None
        finally:
            if outer is not None:
                mine[id(request)] = outer
            else:
                mine.pop(id(request), None)
                if not mine and self._held.get(name) is mine:
                    del self._held[name]

    def cut(self, name: str) -> int:
        """End what is under way for a key; how many requests."""
        now = asyncio.get_running_loop().time()
        cut = list(self._held.pop(name, {}).values())
        for leash in cut:
            leash.reschedule(now)
        return len(cut)
