"""Job: runs one batch from wherever it stands to its end, and can be left at any moment."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from hearthd.batch.asking import Asking, Revoked
from hearthd.batch.batch import Batch, Ending, Fault, begun, cancel_asked, finalized
from hearthd.batch.keeper import Keeper
from hearthd.batch.line import BadLine, Parsed
from hearthd.batch.reading import LineReader, count_lines, fault_of_input
from hearthd.batch.record import Record, unanswered
from hearthd.batch.threads import in_thread
from hearthd.batch.workshop import Workshop
from hearthd.errors import InvalidRequest

WINDOW: Final = 64
"""Lines of one batch that are read and not done."""
_LEAVE_SECONDS: Final = 1.0
"""For what is answered to reach the disk, when the daemon goes."""
_LEFTOVERS: Final = 512  # lines without an answer that are told at once

_LEFT: Final[dict[Ending, Fault]] = {
    "expired": Fault(
        "batch_expired", "This request could not be executed before the completion window expired."
    ),
    "cancelled": Fault("batch_cancelled", "This batch was cancelled before this request was executed."),
}  # fmt: skip


class Job:
    """One task runs it; `cancel` and `rest` are said from outside."""

    def __init__(self, batch: Batch, shop: Workshop) -> None:
        self._shop = shop
        self._path = shop.files.path(batch.input_file)
        self._keeper = Keeper(batch, shop)
        self._records: asyncio.Queue[Record | None] = asyncio.Queue()
        self._window = asyncio.Semaphore(WINDOW)
        self._told = asyncio.Event()  # to end, or to rest
        self._asking = Asking(self._keeper, shop, self._records.put_nowait, self._told.set)
        self._resting = False
        self._ending = False  # it is decided how

    @property
    def batch(self) -> Batch:
        """As it stands."""
        return self._keeper.batch

    # --- what others say -----------------------------------------------------------------------

    def cancel(self) -> None:
        """End it with what it has; raises InvalidRequest where it is too late."""
        if self._ending:
            raise InvalidRequest(
                f"the batch {self.batch.id} ends already", code="batch_not_cancellable"
            )
        self._keeper.batch = cancel_asked(self.batch, self._shop.clock())
        self._told.set()

    def rest(self) -> None:
        """Begin no more lines; those under way may end."""
        self._resting = True
        self._told.set()

    async def wait_told(self, seconds: float) -> bool:
        """Whether it is told something within so many seconds."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._told.wait()
        except TimeoutError:
            return False
        return True

    # --- its life ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is over, or rests; cancelling it loses nothing that cannot be computed again."""
        try:
            fault = await self._prepare()
            if fault is not None:
                await self._fail(fault)
                return
            ending = await self._work()
            if ending is not None:
                await self._end(ending)
        except Revoked as error:
            await self._fail(Fault("key_revoked", str(error)))
        finally:
            await self._keeper.close()

    async def fail(self, message: str) -> None:
        """It cannot go on; what is done stays."""
        await self._keeper.read_once()
        await self._fail(Fault("internal_error", message))

    async def _prepare(self) -> Fault | None:
        """Look at the input and at what is done; why nothing can be done."""
        if self.batch.in_progress is None:
            try:
                n_lines = await in_thread(count_lines, self._path)
            except OSError as error:
                return Fault("input_unreadable", f"the input file: {error.strerror or error}")
            if (fault := fault_of_input(n_lines, self._shop.config().lines)) is not None:
                return fault
            self._keeper.batch = begun(self.batch, n_lines, self._shop.clock())
        await self._keeper.recover()
        await self._keeper.save()
        return None

    async def _work(self) -> Ending | None:
        """Have the lines answered; how it ended, or None where it rests."""
        if self.batch.is_cancelling:
            return "cancelled"
        if self.batch.status == "finalizing":
            return "completed"
        writer = asyncio.create_task(self._write())
        feeder = asyncio.create_task(self._feed())
        told = asyncio.create_task(self._told.wait())
        patience_seconds: float | None = None
        try:
            seconds = max(0.0, self.batch.expires - self._shop.clock())
            await asyncio.wait(
                {feeder, told, writer}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            all_asked = feeder.done()
            if all_asked:
                feeder.result()
            elif self._resting:
                feeder.cancel()
                await self._asking.rest()
        except asyncio.CancelledError:
            patience_seconds = _LEAVE_SECONDS
            raise
        finally:
            await _end_both(feeder, told)
            await self._asking.stop()
            if not writer.done():
                self._records.put_nowait(None)
                await _wait_for(writer, patience_seconds)
        writer.result()
        if self._asking.broken is not None:
            raise self._asking.broken
        if self.batch.is_cancelling:
            return "cancelled"
        if all_asked:
            return "completed"
        return None if self._resting else "expired"

    async def _feed(self) -> None:
        """Begin lines as there is room for them; returns when all have been done."""
        reader = self._reader()
        try:
            while not reader.at_end:
                for parsed in await in_thread(reader.read, WINDOW, self._keeper.done):
                    await self._window.acquire()
                    self._begin(parsed)
        finally:
            await in_thread(reader.close)
        await self._asking.all_done()

    def _begin(self, parsed: Parsed) -> None:
        if isinstance(parsed, BadLine):
            self._records.put_nowait(self._unanswered(parsed, parsed.fault))
            return
        if self.batch.model is None and parsed.model:
            self._keeper.batch = msgspec.structs.replace(self.batch, model=parsed.model)
        self._asking.begin(parsed)

    async def _write(self) -> None:
        """Put records on the disk as they come, those that are there together."""
        while True:
            records = [await self._records.get()]
            while not self._records.empty():
                records.append(self._records.get_nowait())
            whole = [record for record in records if record is not None]
            await self._keeper.keep(whole)
            for _ in whole:
                self._window.release()
            if len(whole) < len(records):
                return
            await self._keeper.save_sometimes()

    # --- the end -------------------------------------------------------------------------------

    async def _end(self, ending: Ending) -> None:
        """Tell of the lines that came to nothing, and hand the files over."""
        self._ending = True
        fault = _LEFT.get(ending)
        if fault is not None:
            await self._tell_left(fault)
        else:
            self._keeper.batch = finalized(self.batch, self._shop.clock())
            await self._keeper.save()
        await self._keeper.hand_over(ending)

    async def _fail(self, fault: Fault) -> None:
        self._ending = True
        await self._keeper.hand_over("failed", (fault,))

    async def _tell_left(self, fault: Fault) -> None:
        await self._keeper.recover()  # which lines are done
        reader = self._reader()
        try:
            while not reader.at_end:
                left = await in_thread(reader.read, _LEFTOVERS, self._keeper.done)
                await self._keeper.keep(
                    [
                        self._unanswered(line, line.fault if isinstance(line, BadLine) else fault)
                        for line in left
                    ]
                )
        finally:
            await in_thread(reader.close)

    def _unanswered(self, line: Parsed, fault: Fault) -> Record:
        return unanswered(self.batch.line_prefix, line.number, line.custom_id, fault)

    def _reader(self) -> LineReader:
        return LineReader(
            self._path, self.batch.endpoint, most_line_bytes=self._shop.most_line_bytes
        )


async def _end_both(feeder: asyncio.Task[None], told: asyncio.Task[bool]) -> None:
    feeder.cancel()
    told.cancel()
    await asyncio.gather(feeder, told, return_exceptions=True)


async def _wait_for(task: asyncio.Task[None], seconds: float | None) -> None:
    """Until a task has ended, or so long; then, and when its caller is cancelled, it is ended."""
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
