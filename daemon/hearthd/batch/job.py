"""Job: runs one batch from wherever it stands to its end, and can be left at any moment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from hearthd.batch import stored
from hearthd.batch.answerer import Answer, Answerer, Question, verdict_on
from hearthd.batch.batch import Batch, Ending, Fault, begun, cancel_asked, ended, finalized
from hearthd.batch.counts import Counts
from hearthd.batch.disk import Disk, DiskTrouble
from hearthd.batch.files import Files
from hearthd.batch.journal import Journal, Progress
from hearthd.batch.line import BadLine, Line
from hearthd.batch.owners import Owners
from hearthd.batch.reading import LineReader, count_lines, fault_of_input
from hearthd.batch.record import Record, answered, unanswered
from hearthd.batch.seats import Seats
from hearthd.batch.stored import StoredFile
from hearthd.batch.threads import in_thread
from hearthd.config.schema import BatchConfig
from hearthd.errors import InvalidRequest
from hearthd.serving.principal import Principal
from hearthd.store.database import Database
from hearthd.store.errors import StoreError

log = logging.getLogger(__name__)

WINDOW: Final = 64
"""Lines of one batch that are read and not done."""
SAVE_SECONDS: Final = 1.0
"""Between two notes of the progress; what counts after a crash is in the files."""
PAUSE_SECONDS: Final = 1.0
"""Between two attempts to write where there was no room."""
_LEFTOVERS: Final = 512  # lines without an answer that are told at once


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all jobs work with."""

    answerer: Answerer
    files: Files
    disk: Disk
    database: Database
    seats: Seats
    owners: Owners
    counts: Counts
    config: BatchConfig
    most_line_bytes: int
    clock: Callable[[], float]  # unix time


class _Revoked(Exception):
    """The key that the batch came with counts no more."""


class Job:
    """One task runs it; `cancel` and `rest` are said from outside."""

    def __init__(self, batch: Batch, shop: Workshop) -> None:
        self.batch = batch
        self._shop = shop
        self._journal = Journal(
            shop.disk,
            shop.files.path(batch.output_file),
            shop.files.path(batch.error_file),
            batch.line_prefix,
        )
        self._progress = Progress()
        self._records: asyncio.Queue[Record | None] = asyncio.Queue()
        self._window = asyncio.Semaphore(WINDOW)
        self._told = asyncio.Event()  # to end, or to rest
        self._resting = False
        self._ending = False  # it is decided how
        self._lines: set[asyncio.Task[None]] = set()
        self._asking: set[asyncio.Task[None]] = set()  # of them, those that wait for an answer
        self._broken: BaseException | None = None  # what ended one of the lines
        self._saved_at = 0.0

    # --- what others say -----------------------------------------------------------------------

    def cancel(self) -> None:
        """End it with what it has; raises InvalidRequest where it is too late."""
        if self._ending:
            raise InvalidRequest(
                f"the batch {self.batch.id} ends already", code="batch_not_cancellable"
            )
        self.batch = cancel_asked(self.batch, self._shop.clock())
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
        path = self._shop.files.path(self.batch.input_file)
        try:
            if not await self._prepare(path):
                return
            ending = await self._work(path)
            if ending is not None:
                await self._end(ending, path)
        except _Revoked as error:
            await self._fail(Fault("key_revoked", str(error)))
        finally:
            await in_thread(self._journal.close)

    async def fail(self, message: str) -> None:
        """It cannot go on; what is done stays."""
        with suppress(DiskTrouble):
            await in_thread(self._journal.recover)
        await self._fail(Fault("internal_error", message))

    async def _prepare(self, path: Path) -> bool:
        """Look at the input and at what is done; returns whether there is something to do."""
        fault = None
        if self.batch.in_progress is None:
            try:
                n_lines = await in_thread(count_lines, path)
            except OSError as error:
                fault = Fault("input_unreadable", f"the input file: {error.strerror or error}")
            else:
                fault = fault_of_input(n_lines, self._shop.config.lines)
                self.batch = begun(self.batch, n_lines, self._shop.clock())
        if fault is not None:
            await self._fail(fault)
            return False
        await self._recover()
        await self._save()
        return True

    async def _recover(self) -> None:
        while True:
            try:
                self._progress = await in_thread(self._journal.recover)
            except DiskTrouble as trouble:
                await self._pause(trouble.trouble, str(trouble))
            else:
                break
        progress = self._progress
        self.batch = msgspec.structs.replace(
            self.batch,
            n_completed=progress.n_completed,
            n_failed=progress.n_failed,
            usage=progress.usage,
            paused=None,
        )

    async def _work(self, path: Path) -> Ending | None:
        """Have the lines answered; how it ended, or None where it rests."""
        if self.batch.is_cancelling:
            return "cancelled"
        if self.batch.status == "finalizing":
            return "completed"
        writer = asyncio.create_task(self._write())
        feeder = asyncio.create_task(self._feed(path))
        told = asyncio.create_task(self._told.wait())
        try:
            seconds = max(0.0, self.batch.expires - self._shop.clock())
            await asyncio.wait(
                {feeder, told, writer}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            all_asked = feeder.done()
            if feeder.done():
                feeder.result()
            elif self._resting:
                await self._finish_asking(feeder)
        finally:
            await _end_all((feeder, told, *self._lines))
            if not writer.done():
                self._records.put_nowait(None)
                await _wait_for(writer)
        writer.result()
        if self._broken is not None:
            raise self._broken
        if all_asked:
            return "completed"
        if self.batch.is_cancelling:
            return "cancelled"
        return None if self._resting else "expired"

    async def _finish_asking(self, feeder: asyncio.Task[None]) -> None:
        """Wait for the lines that are with an engine; the others are left for the next start."""
        feeder.cancel()
        for task in self._lines - self._asking:
            task.cancel()
        while self._lines:
            await asyncio.wait(self._lines)

    # --- lines ---------------------------------------------------------------------------------

    async def _feed(self, path: Path) -> None:
        """Begin lines as there is room for them; returns when all have been done."""
        reader = self._reader(path)
        try:
            while not reader.at_end:
                for parsed in await in_thread(reader.read, WINDOW, self._progress.done):
                    await self._window.acquire()
                    if isinstance(parsed, BadLine):
                        self._put_bad(parsed)
                    else:
                        self._begin(parsed)
        finally:
            await in_thread(reader.close)
        while self._lines:
            await asyncio.wait(self._lines)

    def _reader(self, path: Path) -> LineReader:
        return LineReader(path, self.batch.endpoint, most_line_bytes=self._shop.most_line_bytes)

    def _begin(self, line: Line) -> None:
        if self.batch.model is None and line.model:
            self.batch = msgspec.structs.replace(self.batch, model=line.model)
        task = asyncio.create_task(self._answer(line))
        self._lines.add(task)
        task.add_done_callback(self._lines.discard)
        task.add_done_callback(self._stop_if_broken)

    def _stop_if_broken(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = self._broken or error
            self._told.set()  # `_work` raises it

    def _put_bad(self, line: BadLine) -> None:
        self._records.put_nowait(
            unanswered(self.batch.line_prefix, line.number, line.custom_id, line.fault)
        )

    async def _answer(self, line: Line) -> None:
        """Ask until the answer stands."""
        n_attempts = 0
        while True:
            answer = await self._ask(line)
            n_attempts += 1
            verdict = verdict_on(answer, n_attempts)
            if verdict.fate == "expired":
                await asyncio.sleep(self.batch.expires - self._shop.clock() + PAUSE_SECONDS)
                continue  # the batch has ended before that
            if verdict.fate == "revoked":
                raise _Revoked(verdict.why or "the key counts no more")
            if verdict.fate == "keep":
                self._records.put_nowait(
                    answered(
                        self.batch.line_prefix, line.number, line.custom_id, answer.status,
                        answer.request_id, answer.body,
                    )
                )  # fmt: skip
                return
            if self._resting:
                return
            n_attempts -= verdict.fate == "wait"
            self._shop.counts.retries += 1
            self._note_wait("model", verdict.why)
            await asyncio.sleep(verdict.seconds)

    async def _ask(self, line: Line) -> Answer:
        owner = self._owner()
        async with self._shop.seats.taken(line.model, owner):
            if self._resting:
                raise asyncio.CancelledError
            task = asyncio.current_task()
            assert task is not None
            self._asking.add(task)
            try:
                return await self._shop.answerer.ask(
                    Question(
                        url=line.url,
                        body=line.body,
                        principal=self._owner(),
                        request_id=f"{self.batch.line_prefix}{line.number}",
                        deadline=self.batch.expires,
                    )
                )
            finally:
                self._asking.discard(task)

    def _owner(self) -> Principal:
        owner = self._shop.owners.principal(self.batch.owner)
        if owner is None:
            raise _Revoked(f"the key {self.batch.owner} counts no more")
        return owner

    # --- the files -----------------------------------------------------------------------------

    async def _write(self) -> None:
        """Put records on the disk as they come, those that are there together."""
        while True:
            records = [await self._records.get()]
            while not self._records.empty():
                records.append(self._records.get_nowait())
            whole = [record for record in records if record is not None]
            await self._keep(whole)
            for _ in whole:
                self._window.release()
            if len(whole) < len(records):
                return
            await self._save_sometimes()

    async def _keep(self, records: Sequence[Record]) -> None:
        """On the disk they are, or it is waited for room."""
        batch, todo = self.batch, records
        while True:
            try:
                await in_thread(self._journal.keep, todo)
            except DiskTrouble as trouble:
                todo = ()  # the journal has them
                await self._pause(trouble.trouble, str(trouble))
            else:
                break
        n_good = sum(record.is_good for record in records)
        usage = batch.usage
        for record in records:
            usage = usage.plus(record.usage)
        self.batch = msgspec.structs.replace(
            self.batch,
            n_completed=self.batch.n_completed + n_good,
            n_failed=self.batch.n_failed + len(records) - n_good,
            usage=usage,
        )
        self._shop.counts.lines["completed"] += n_good
        self._shop.counts.lines["failed"] += len(records) - n_good
        if records:
            self._go_on()

    async def _pause(self, reason: str, why: str) -> None:
        self._note_wait(reason, why)
        with suppress(StoreError):  # where the disk is full, that may not be kept either
            await self._shop.database.write(partial(stored.save_batch, batch=self.batch))
        await asyncio.sleep(PAUSE_SECONDS)

    def _note_wait(self, reason: str, why: str | None) -> None:
        """Tell once that something has to be repaired before it goes on."""
        if why is None or self.batch.paused is not None:
            return
        self.batch = msgspec.structs.replace(self.batch, paused=why)
        self._shop.counts.pauses[reason] += 1
        log.error("batch %s waits: %s", self.batch.id, why, extra={"batch": self.batch.id})

    def _go_on(self) -> None:
        if self.batch.paused is not None:
            self.batch = msgspec.structs.replace(self.batch, paused=None)
            log.warning("batch %s goes on", self.batch.id, extra={"batch": self.batch.id})

    async def _save_sometimes(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._saved_at >= SAVE_SECONDS:
            await self._save()

    async def _save(self, over: Batch | None = None, made: Sequence[StoredFile] = ()) -> None:
        """Keep how it stands, or that it is over; where the database cannot, it is waited for."""
        while True:
            batch = self.batch if over is None else over
            try:
                await self._shop.database.write(partial(stored.save_batch, batch=batch, made=made))
            except StoreError as error:
                if error.fault not in ("full", "io"):
                    raise
                self._note_wait(error.fault, f"the database: {error}")
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                break
        self._saved_at = asyncio.get_running_loop().time()

    # --- the end -------------------------------------------------------------------------------

    async def _end(self, ending: Ending, path: Path) -> None:
        """Tell of the lines that came to nothing, and hand the files over in one transaction."""
        self._ending = True
        fault = _LEFT[ending]
        if fault is not None:
            await self._tell_left(path, fault)
        if ending == "completed":
            self.batch = finalized(self.batch, self._shop.clock())
            await self._save()
        await self._hand_over(ending)

    async def _fail(self, fault: Fault) -> None:
        await self._hand_over("failed", (fault,))

    async def _tell_left(self, path: Path, fault: Fault) -> None:
        await self._recover()  # which lines are done
        reader = self._reader(path)
        try:
            while not reader.at_end:
                left = await in_thread(reader.read, _LEFTOVERS, self._progress.done)
                await self._keep(
                    [
                        unanswered(
                            self.batch.line_prefix,
                            line.number,
                            line.custom_id,
                            line.fault if isinstance(line, BadLine) else fault,
                        )
                        for line in left
                    ]
                )
        finally:
            await in_thread(reader.close)

    async def _hand_over(self, ending: Ending, faults: tuple[Fault, ...] = ()) -> None:
        self._ending = True
        n_output, n_errors = await in_thread(self._journal.finish)
        now = self._shop.clock()
        over = ended(
            self.batch,
            ending,
            now,
            has_output=n_output > 0,
            has_errors=n_errors > 0,
            faults=faults,
        )
        made = [
            self._made(file_id, kind, n_bytes, now)
            for file_id, kind, n_bytes in (
                (over.output_file, "output", n_output),
                (over.error_file, "error", n_errors),
            )
            if n_bytes
        ]
        await self._save(over, made)  # before anybody can see that it is over
        self.batch = over
        await self._shop.files.measure()
        self._shop.counts.ended[ending] += 1
        log.info(
            "batch %s %s: %d lines answered, %d not", self.batch.id, ending,
            self.batch.n_completed, self.batch.n_failed, extra={"batch": self.batch.id},
        )  # fmt: skip

    def _made(self, file_id: str, kind: str, n_bytes: int, now: float) -> StoredFile:
        return StoredFile(
            file_id,
            self.batch.owner,
            "batch_output",
            f"{self.batch.id}_{kind}.jsonl",
            n_bytes,
            now,
            self._shop.files.expiry(self.batch.output_keep_seconds, now),
        )


_LEFT: Final[dict[Ending, Fault | None]] = {
    "completed": None,
    "failed": None,
    "expired": Fault(
        "batch_expired", "This request could not be executed before the completion window expired."
    ),
    "cancelled": Fault(
        "batch_cancelled", "This batch was cancelled before this request was executed."
    ),
}


async def _end_all(tasks: Sequence[asyncio.Task[object]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _wait_for(task: asyncio.Task[None]) -> None:
    """Until a task has ended; who is cancelled meanwhile ends it."""
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
