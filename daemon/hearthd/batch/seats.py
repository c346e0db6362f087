"""Seats: how many lines of batches each model has under way; live requests never wait for want of room."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from hearthd.errors import HearthError
from hearthd.serving.principal import Principal
from hearthd.serving.quota import Standing
from hearthd.serving.service import Serving

LOOK_SECONDS: Final = 0.5
"""Between two looks at what changes without a word: limits of keys, models that get ready."""
YIELD_SECONDS: Final = 5.0
"""So long after a more urgent request, no more than a few lines are with a model."""


def seats_of(concurrency: int | None, quiet_seconds: float) -> int:
    """Lines at once for a model that runs so many (None: not known yet). Pure.

    An eighth of its places stays free; and a sixteenth is all there is while somebody else uses the model.
    """
    if concurrency is None:
        return 1
    if quiet_seconds < YIELD_SECONDS:
        return max(1, concurrency // 16)
    return max(1, concurrency - max(1, concurrency // 8))


def leaves_room(standing: Standing, n_lines: int) -> bool:
    """Whether one more line leaves half of a key's limits to its other requests. Pure."""
    if standing.concurrency is not None and n_lines >= max(1, standing.concurrency // 2):
        return False
    if standing.tokens_per_minute is None or standing.tokens_left is None:
        return True
    return standing.tokens_left >= standing.tokens_per_minute // 2


class Seats:
    """Belongs to the event loop."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._by_model: Counter[str] = Counter()
        self._by_key: Counter[str] = Counter()
        self._freed = asyncio.Event()

    @property
    def n_taken(self) -> int:
        """Lines under way."""
        return self._by_model.total()

    @asynccontextmanager
    async def taken(self, model: str, principal: Principal) -> AsyncIterator[None]:
        """Have one, as soon as there is one."""
        name, key = self._name(model), principal.name
        while not self._is_free(name, principal):
            self._freed.clear()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._freed.wait()
            except TimeoutError:
                continue
        self._by_model[name] += 1
        self._by_key[key] += 1
        try:
            yield
        finally:
            self._by_model[name] -= 1
            self._by_key[key] -= 1
            self._freed.set()

    def _is_free(self, name: str, principal: Principal) -> bool:
        if self._by_model[name] >= self._seats(name):
            return False
        if not principal.has_limits:
            return True
        return leaves_room(self._serving.standing(principal), self._by_key[principal.name])

    def _seats(self, name: str) -> int:
        try:
            info = self._serving.model(name).info
            quiet_seconds = self._serving.quiet_seconds(name, "batch")
        except HearthError:
            return 1  # the API says what is wrong with it
        return seats_of(None if info is None else info.concurrency, quiet_seconds)

    def _name(self, model: str) -> str:
        """Of the model that a name stands for, so that its aliases share its seats."""
        try:
            return self._serving.model(model).name
        except HearthError:
            return model  # the API says what is wrong with it
