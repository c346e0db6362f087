"""Cached: a cache over any Serving in a folder of the test's, and requests to it as the API makes them."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from hearthd import wire
from hearthd.api.fanout import Fanout
from hearthd.cache.asked import Asked, Found
from hearthd.cache.control import directives_of
from hearthd.cache.counts import Counts
from hearthd.cache.exact import ExactCache
from hearthd.cache.policy import Policy
from hearthd.cache.service import ResponseCache
from hearthd.cache.tables import SCHEMA
from hearthd.config.schema import CacheConfig, KeyConfig, ModelCacheConfig, RequestClass
from hearthd.serving.generation import GenerationRequest
from hearthd.serving.principal import LOCAL, Principal
from hearthd.serving.service import Serving


class Cached:
    """Answers the text of what it was asked; `counts` and `exact` are there to be looked at."""

    def __init__(
        self,
        serving: Serving,
        folder: Path,
        *,
        cache: CacheConfig | None = None,
        model: ModelCacheConfig | None = None,
        keys: dict[str, KeyConfig] | None = None,
    ) -> None:
        config = cache or CacheConfig()
        model = model or ModelCacheConfig()
        self.serving = serving
        self.path = folder / "cache.db"
        self.counts = Counts()
        self.exact = ExactCache(
            self.path,
            self.counts,
            budget_bytes=config.budget,
            entry_bytes=config.entry,
            ttl_seconds={"canary": model.ttl_seconds},
        )
        policy = Policy(config, {"canary": model}, keys or {})
        self.cache = ResponseCache(serving, policy, self.exact, self.counts)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Cached]:
        """Open while it is used."""
        await asyncio.to_thread(_lay_tables, self.path)
        await self.cache.open()
        try:
            yield self
        finally:
            await self.cache.close()

    async def ask(
        self,
        question: str = "Q",
        *,
        control: str = "",
        principal: Principal = LOCAL,
        klass: RequestClass = "normal",
        seeded: bool = False,
        n: int = 1,
        **fields: Any,
    ) -> tuple[str, str]:
        """X-Cache, and the text."""
        asked = asked_for(
            question,
            control=control,
            principal=principal,
            klass=klass,
            seeded=seeded,
            n=n,
            **fields,
        )
        async with self.answer(asked) as found:
            return found.result, await text_of(found)

    @asynccontextmanager
    async def answer(self, asked: Asked) -> AsyncIterator[Found]:
        """An answer, to be read or left."""
        async with self.cache.answer(asked, lambda: Fanout(self.serving, asked.requests)) as found:
            yield found

    async def settled(self) -> None:
        """Wait until all that was answered is on disk."""
        await self.cache.settled()


@functools.cache
def _empty_database() -> bytes:
    """Tables without answers; the daemon makes them in a child process, once in its life."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "empty.db"
        SCHEMA.migrate(file)
        return file.read_bytes()


def _lay_tables(path: Path) -> None:
    if path.parent.is_dir() and not path.exists():
        path.write_bytes(_empty_database())


def asked_for(
    question: str,
    *,
    control: str = "",
    principal: Principal = LOCAL,
    klass: RequestClass = "normal",
    seeded: bool = False,
    n: int = 1,
    sampling: wire.Sampling | None = None,
    **fields: Any,
) -> Asked:
    """A completion of a text, greedy unless `sampling` says otherwise."""
    frame = msgspec.structs.replace(
        wire.Submit(
            rid=0,
            sampling=sampling or wire.Sampling(temperature=0.0),
            text=question,
            arrived_seconds=time.monotonic(),
        ),
        **fields,
    )
    request = GenerationRequest("canary", frame, "req", klass, principal)
    return Asked(
        requests=[request] * n,
        seeded=seeded,
        control=directives_of(control),
        wording=hashlib.blake2b(question.encode(), digest_size=16).digest(),
        id="cmpl-1",
        created=int(time.time()),
    )


async def text_of(found: Found) -> str:
    """All the text of an answer, its body where it was worded."""
    if found.source is None:
        return (found.body or b"").decode()
    parts = [d.text async for step in found.source.steps() for _, d in step]
    return "".join(parts)
