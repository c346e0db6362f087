"""Fanout: the generations of one HTTP request, read as one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeAlias

from hearthd import wire
from hearthd.serving.generation import Generation, GenerationRequest
from hearthd.serving.service import Serving

Piece: TypeAlias = tuple[int, wire.Delta]
"""Index of the choice, and what it gained."""


class Fanout:
    """Admits all on entry, cancels what is not over on exit; reads them as steps."""

    def __init__(self, serving: Serving, requests: Sequence[GenerationRequest]) -> None:
        self._serving = serving
        self._requests = requests
        self._generations: list[Generation] = []
        self._stack = AsyncExitStack()

    @property
    def info(self) -> wire.ModelInfo | None:
        """The model that answers; None until an engine took the first request."""
        return self._generations[0].info if self._generations else None

    async def __aenter__(self) -> Self:
        """Raises what `Serving.generate` raises; then none is left behind."""
        async with AsyncExitStack() as stack:
            for request in self._requests:
                generation = self._serving.generate(request)
                self._generations.append(await stack.enter_async_context(generation))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, traceback)

    def steps(self) -> AsyncIterator[list[Piece]]:
        """What arrives together, until all are over; raises the first error of any."""
        if len(self._generations) == 1:
            return _alone(self._generations[0])
        return self._together()

    async def _together(self) -> AsyncIterator[list[Piece]]:
        arrived: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        pumps = [
            asyncio.create_task(_pump(i, generation, arrived))
            for i, generation in enumerate(self._generations)
        ]
        self._stack.push_async_callback(_end, pumps)
        n_running = len(pumps)
        while n_running:
            pieces: list[Piece] = []
            item = await arrived.get()
            while True:
                if isinstance(item, Exception):
                    raise item
                if item is None:
                    n_running -= 1
                else:
                    pieces.append(item)
                if arrived.empty():
                    break
                item = arrived.get_nowait()
            if pieces:
                yield pieces


async def _alone(generation: Generation) -> AsyncIterator[list[Piece]]:
    async for delta in generation:
        yield [(0, delta)]


async def _pump(
    index: int, generation: Generation, arrived: asyncio.Queue[Piece | Exception | None]
) -> None:
    try:
        async for delta in generation:
            arrived.put_nowait((index, delta))
        arrived.put_nowait(None)
    except Exception as error:  # raised where it is read
        arrived.put_nowait(error)


async def _end(pumps: Sequence[asyncio.Task[None]]) -> None:
    """Nobody reads any more: the tasks end before the generations are left."""
    for pump in pumps:
        pump.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)
