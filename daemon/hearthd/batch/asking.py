"""Asking: the lines of one batch that are under way, each asked until its answer stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from hearthd.batch.answerer import Answer, Question, verdict_on
from hearthd.batch.keeper import Keeper
from hearthd.batch.line import Line
from hearthd.batch.record import Record, answered
from hearthd.batch.workshop import Workshop
from hearthd.serving.principal import Principal

_AFTER_END_SECONDS: Final = 1.0


class Revoked(Exception):
    """The key that the batch came with counts no more."""


class Asking:
    """`put` takes each record; `on_broken` hears of what ended a line that nobody foresaw, or revoked it."""

    def __init__(
        self,
        keeper: Keeper,
        shop: Workshop,
        put: Callable[[Record], None],
        on_broken: Callable[[], None],
    ) -> None:
        self.broken: BaseException | None = None
        self._keeper = keeper
        self._shop = shop
        self._put = put
        self._on_broken = on_broken
        self._resting = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()  # of them, those that an engine has

    def begin(self, line: Line) -> None:
        """Ask one."""
        task = asyncio.create_task(self._answer(line))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def all_done(self) -> None:
        """Until nothing is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def rest(self) -> None:
        """Until what an engine has is done; the others are left."""
        self._resting = True
        for task in self._tasks - self._waiting:
            task.cancel()
        await self.all_done()

    async def stop(self) -> None:
        """Leave everything."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken = self.broken or error
            self._on_broken()

    async def _answer(self, line: Line) -> None:
        n_attempts = 0
        while True:
            answer = await self._ask(line)
            n_attempts += 1
            verdict = verdict_on(answer, n_attempts)
            if verdict.fate == "keep":
                self._put(self._record(line, answer))
                return
            if verdict.fate == "revoked":
                raise Revoked(verdict.why or "the key counts no more")
            if self._resting:
                return
            if verdict.fate == "expired":  # the batch ends before this line goes on
                left = self._keeper.batch.expires - self._shop.clock()
                await asyncio.sleep(left + _AFTER_END_SECONDS)
                continue
            n_attempts -= verdict.fate == "wait"
            self._shop.counts.retries += 1
            if verdict.why is not None:
                self._keeper.note_wait("model", verdict.why)
            await asyncio.sleep(verdict.seconds)

    async def _ask(self, line: Line) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        async with self._shop.seats.taken(line.model, self._owner()):
            if self._resting:
                raise asyncio.CancelledError
            self._waiting.add(task)
            try:
                return await self._shop.answerer.ask(self._question(line))
            finally:
                self._waiting.discard(task)

    def _question(self, line: Line) -> Question:
        batch = self._keeper.batch
        return Question(
            url=line.url,
            body=line.body,
            principal=self._owner(),
            request_id=f"{batch.line_prefix}{line.number}",
            deadline=batch.expires,
        )

    def _record(self, line: Line, answer: Answer) -> Record:
        prefix = self._keeper.batch.line_prefix
        return answered(
            prefix, line.number, line.custom_id, answer.status, answer.request_id, answer.body
        )

    def _owner(self) -> Principal:
        name = self._keeper.batch.owner
        owner = self._shop.owners.principal(name)
        if owner is None:
            raise Revoked(f"the key {name} counts no more")
        return owner
