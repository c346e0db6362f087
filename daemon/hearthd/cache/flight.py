"""Flight: one answer while it is computed, read by everybody who asked for the same."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Final

from hearthd import wire
from hearthd.cache.recording import Step
from hearthd.cache.source import Live
from hearthd.errors import DeadlineExceeded, EngineFailed

_GONE: Final = "the computation of this answer ended before the answer was complete"


class Flight:
    """Reads a live answer in a task of its own and keeps what came; ends early when its last reader left."""

    def __init__(
        self,
        live: Live,
        stack: AsyncExitStack,
        *,
        answer_id: str,
        created: int,
        level: int,
        deadline_seconds: float | None,
        on_end: Callable[[Flight], None],
    ) -> None:
        """`live` has been entered on `stack`, which the flight owns from now on.

        `level`, `deadline_seconds`: priority and deadline that it is computed with. `on_end` hears once.
        """
        self.steps: list[Step] = []
        self.id = answer_id  # of the answer, for all who read it
        self.created = created  # unix seconds
        self.level = level
        self.deadline_seconds = deadline_seconds
        self.began_seconds = time.monotonic()
        self.is_over = False
        self.error: Exception | None = None
        self._live = live
        self._on_end = on_end
        self._readers: set[Reader] = set()
        self._task = asyncio.create_task(self._fly(stack), name="flight")

    @property
    def info(self) -> wire.ModelInfo | None:
        """The model that answers, once it is known."""
        return self._live.info

    def serves(self, level: int, deadline_seconds: float | None) -> bool:
        """Whether a request may wait for this one: it is as urgent, and not given up before the other's time."""
        if self.error is not None:
            return False
        if self.is_over:
            return True
        in_time = self.deadline_seconds is None or (
            deadline_seconds is not None and deadline_seconds <= self.deadline_seconds
        )
        return self.level >= level and in_time

    def join(self, deadline_seconds: float | None) -> Reader:
        """Read it from its beginning."""
        reader = Reader(self, deadline_seconds)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """One reads no more; after the last, nothing more is computed."""
        self._readers.discard(reader)
        # Not at once: a task that is cancelled before its first step would leave `live` entered.
        asyncio.get_running_loop().call_soon(self._end_unread)

    async def stop(self) -> None:
        """End it now, whoever reads."""
        await asyncio.sleep(0)
        self._end()
        await asyncio.gather(self._task, return_exceptions=True)

    def _end_unread(self) -> None:
        if not self._readers:
            self._end()

    def _end(self) -> None:
        if not self.is_over and self.error is None:
            self.error = EngineFailed(_GONE)  # nobody joins it any more
            self._task.cancel()

    async def _fly(self, stack: AsyncExitStack) -> None:
        try:
            async with stack:
                async for step in self._live.steps():
                    self.steps.append(step)
                    self._wake()
            self.is_over = True
        except Exception as error:
            self.error = error
        finally:
            if not self.is_over and self.error is None:
                self.error = EngineFailed(_GONE)
            self._wake()
            self._on_end(self)

    def _wake(self) -> None:
        for reader in self._readers:
            reader.wake()


class Reader:
    """One reader's place in a flight."""

    def __init__(self, flight: Flight, deadline_seconds: float | None) -> None:
        self._flight = flight
        self._deadline_seconds = deadline_seconds
        self._news = asyncio.Event()

    @property
    def info(self) -> wire.ModelInfo | None:
        """The model that answers, once it is known."""
        return self._flight.info

    def wake(self) -> None:
        """Something came."""
        self._news.set()

    async def steps(self) -> AsyncIterator[Step]:
        """Every step from the first, as they come; raises what the computation ended with."""
        flight, n_read = self._flight, 0
        while True:
            while n_read < len(flight.steps):
                n_read += 1
                yield flight.steps[n_read - 1]
            if flight.error is not None:
                raise flight.error
            if flight.is_over:
                return
            self._news.clear()
            await self._wait()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout_at(self._deadline_seconds):  # the loop's clock is monotonic
                await self._news.wait()
        except TimeoutError:
            raise DeadlineExceeded(
                "the deadline of the request has passed before its end"
            ) from None
