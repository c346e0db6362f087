"""Batches: what the API asks about files and batches; runs the jobs, and takes them up again after a restart."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from hearthd.batch import stored
from hearthd.batch.answerer import Answerer
from hearthd.batch.batch import ENDPOINTS, Batch, new_id, window_seconds
from hearthd.batch.counts import Counts, Now
from hearthd.batch.disk import Disk
from hearthd.batch.files import Files
from hearthd.batch.housekeeping import Housekeeping
from hearthd.batch.job import Job
from hearthd.batch.owners import Owners
from hearthd.batch.seats import Seats
from hearthd.batch.stored import Page
from hearthd.batch.tables import SCHEMA
from hearthd.batch.workshop import Workshop
from hearthd.config.schema import BatchConfig
from hearthd.errors import HearthError, InvalidRequest, NotFound, ShuttingDown
from hearthd.serving.service import Serving
from hearthd.store.database import Database
from hearthd.store.errors import StoreError
from hearthd.tasks import tell_crash

log = logging.getLogger(__name__)

MOST_RUNNING: Final = 8
"""Batches that have lines under way at once; the others wait for their turn."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a client asks for."""

    owner: str
    endpoint: str
    input_file: str
    window: str
    metadata: dict[str, str] | None
    output_keep_seconds: float | None


class Batches:
    """Belongs to the event loop. `open` it, `begin` once there is somebody who answers; `rest` and `close`."""

    def __init__(
        self,
        folder: Path,
        serving: Serving,
        owners: Owners,
        config: BatchConfig,
        *,
        most_line_bytes: int,
        clock: Callable[[], float] = time.time,
        disk: Disk | None = None,
    ) -> None:
        """`clock` is unix time; `most_line_bytes` what the API takes as a body."""
        self.counts = Counts()
        self._folder = folder
        self._owners = owners
        self._config = config
        self._most_line_bytes = most_line_bytes
        self._clock = clock
        self._disk = disk or Disk(config.reserve)
        self.files = Files(folder / "files", self._disk, lambda: self._config, clock)
        self._seats = Seats(serving)
        self._database: Database | None = None
        self._fault: str | None = None
        self._opened = asyncio.Event()  # or found that it cannot be
        self._begun = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._shop: Workshop | None = None
        self._jobs: dict[str, Job] = {}  # by id of the batch: those that are not over
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(MOST_RUNNING)
        self._resting = False
        self._keeper: asyncio.Task[None] | None = None

    # --- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open what is kept; where that cannot be, everything else goes on and whoever asks is told."""
        try:
            self._database = await asyncio.to_thread(
                Database.open, self._folder / "batches.db", SCHEMA
            )
            await self.files.open(self._database)
        except (StoreError, OSError) as error:
            self._fault = str(error)
            log.critical("batches cannot be used: %s", error)
        else:
            work = Housekeeping(self.files, self._database, lambda: self._config, self._clock)
            self._keeper = asyncio.create_task(work.keep_going(), name="batch-files")
            self._keeper.add_done_callback(tell_crash)
        finally:
            self._opened.set()

    def configure(self, config: BatchConfig) -> None:
        """Go by other settings from now on; files keep the time that they were given."""
        self._config = config
        self._disk.reserve_bytes = config.reserve

    def begin(self, answerer: Answerer) -> None:
        """Run what is not over, and what comes, once it can be read."""
        self._starting = asyncio.create_task(self._start(answerer), name="batches-begin")
        self._starting.add_done_callback(tell_crash)

    async def _start(self, answerer: Answerer) -> None:
        await self._opened.wait()
        if self._database is None:
            return
        self._shop = Workshop(
            answerer=answerer,
            files=self.files,
            disk=self._disk,
            database=self._database,
            seats=self._seats,
            owners=self._owners,
            counts=self.counts,
            config=lambda: self._config,
            most_line_bytes=self._most_line_bytes,
            clock=self._clock,
        )
        try:
            left = await self._database.read(stored.unfinished)
        except StoreError as error:
            self._fault = str(error)
            log.critical("batches cannot be read: %s", error)
            return
        for batch in left:
            self._run(Job(batch, self._shop))
        self._begun.set()

    def rest(self) -> None:
        """Begin nothing more; what is with an engine may end."""
        self._resting = True
        for job in self._jobs.values():
            job.rest()

    async def close(self) -> None:
        """Leave all jobs where they are, and close."""
        self.rest()
        await self._opened.wait()
        for task in (self._starting, self._keeper):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._database is not None:
            await asyncio.to_thread(self._database.close)
            self._database = None

    # --- what clients ask ----------------------------------------------------------------------

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[Database]:
        """The database is open; what fails in it is said in words. Raises HearthError."""
        await self._opened.wait()
        if self._database is None:
            raise HearthError(
                f"batches cannot be used: {self._fault or 'the daemon stops'}", code="batch_failed"
            )
        try:
            yield self._database
        except StoreError as error:
            raise HearthError(f"batches cannot be kept: {error}", code="batch_failed") from error

    async def create(self, order: Order, *, sees_all: bool) -> Batch:
        """Take a batch; raises InvalidRequest, NotFound, ShuttingDown."""
        if order.endpoint not in ENDPOINTS:
            raise InvalidRequest(
                f"endpoint: must be one of {', '.join(ENDPOINTS)}, not {order.endpoint[:64]!r}",
                param="endpoint",
            )
        seconds = window_seconds(order.window)
        async with self.ready() as database:
            file = await self.files.get(order.input_file, None if sees_all else order.owner)
            if file.purpose != "batch":
                raise InvalidRequest(
                    f"input_file_id: the purpose of {file.id} is {file.purpose}, not batch",
                    param="input_file_id",
                )
            if self._shop is None or not self._begun.is_set() or self._resting:
                raise ShuttingDown("no batches are taken at the moment")
            batch = Batch(
                id=new_id("batch_"),
                owner=order.owner,
                endpoint=order.endpoint,
                input_file=file.id,
                window=order.window,
                window_seconds=seconds,
                created=self._clock(),
                output_file=new_id("file-"),
                error_file=new_id("file-"),
                output_keep_seconds=order.output_keep_seconds,
                metadata=order.metadata,
            )
            await database.write(partial(stored.add_batch, batch=batch))
        self._run(Job(batch, self._shop))
        return batch

    async def get(self, batch_id: str, owner: str | None) -> Batch:
        """A batch of this owner (None: of anybody) as it stands now; raises NotFound."""
        job = self._jobs.get(batch_id)
        async with self.ready() as database:
            batch = (
                await database.read(partial(stored.batch_of, batch_id=batch_id))
                if job is None
                else job.batch
            )
        if batch is None or owner not in (None, batch.owner):
            raise NotFound(
                f"There is no batch {batch_id}", param="batch_id", code="batch_not_found"
            )
        return batch

    async def listed(self, page: Page) -> list[Batch]:
        """One page, and one more where there are more; raises InvalidRequest."""
        async with self.ready() as database:
            if page.after is not None:
                known = await database.read(partial(stored.batch_of, batch_id=page.after))
                if known is None:
                    raise InvalidRequest(f"after: there is no batch {page.after}", param="after")
            found = await database.read(partial(stored.batches, page=page))
        return [self._as_it_stands(batch) for batch in found]

    async def cancel(self, batch_id: str, owner: str | None) -> Batch:
        """End a batch with what it has; raises NotFound, and InvalidRequest where it is too late."""
        batch = await self.get(batch_id, owner)
        job = self._jobs.get(batch_id)
        async with self.ready() as database:
            if job is None:
                raise InvalidRequest(
                    f"the batch {batch_id} is {batch.status} and cannot be cancelled",
                    code="batch_not_cancellable",
                )
            job.cancel()
            await database.write(partial(stored.save_batch, batch=job.batch))
        return job.batch

    def paused(self) -> dict[str, str]:
        """Batches that wait until something is repaired, by id, and what that is."""
        batches = [job.batch for job in self._jobs.values()]
        return {batch.id: batch.paused for batch in batches if batch.paused is not None}

    def now(self) -> Now:
        """What a scrape reads."""
        batches = [job.batch for job in self._jobs.values()]
        return Now(
            jobs=Counter(batch.status for batch in batches),
            n_paused=sum(batch.paused is not None for batch in batches),
            n_lines=self._seats.n_taken,
            n_bytes=self.files.n_bytes,
        )

    # --- jobs ----------------------------------------------------------------------------------

    def _as_it_stands(self, batch: Batch) -> Batch:
        job = self._jobs.get(batch.id)
        return batch if job is None else job.batch

    def _run(self, job: Job) -> None:
        self._jobs[job.batch.id] = job
        task = asyncio.create_task(self._see_through(job), name=job.batch.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _see_through(self, job: Job) -> None:
        """Run one in its turn; what nobody foresaw ends it, and no other."""
        has_turn = await self._take_turn(job)
        try:
            if has_turn or not self._resting:
                await job.run()
        except Exception as error:
            log.exception("batch %s failed", job.batch.id)
            await job.fail(f"something failed inside hearthd: {error}")
        finally:
            if has_turn:
                self._turns.release()
            if job.batch.is_over:
                self._jobs.pop(job.batch.id, None)

    async def _take_turn(self, job: Job) -> bool:
        """Wait for a turn, or until the job is told to end, or its time is over."""
        waiting = asyncio.create_task(self._turns.acquire())
        told = asyncio.create_task(job.wait_told(job.batch.expires - self._clock()))
        try:
            await asyncio.wait({waiting, told}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._turns.release()
            raise
        finally:
            told.cancel()
            if not waiting.done():
                waiting.cancel()
        return waiting.done() and not waiting.cancelled()
