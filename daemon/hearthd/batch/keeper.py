"""Keeper: one batch as it stands, and everything of it that goes to the disk; waits where there is no room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from hearthd.batch import stored
from hearthd.batch.batch import Batch, Ending, Fault, ended
from hearthd.batch.disk import DiskTrouble
from hearthd.batch.journal import Journal, Progress
from hearthd.batch.record import Record
from hearthd.batch.stored import StoredFile
from hearthd.batch.threads import in_thread
from hearthd.batch.workshop import Workshop
from hearthd.store.errors import StoreError

log = logging.getLogger(__name__)

SAVE_SECONDS: Final = 1.0
"""Between two notes of the progress; what counts after a crash is in the files."""
PAUSE_SECONDS: Final = 1.0
"""Between two attempts to write where there was no room."""


class Keeper:
    """Belongs to the event loop; one task at a time writes."""

    def __init__(self, batch: Batch, shop: Workshop) -> None:
        self.batch = batch
        self.done: set[int] = set()  # lines that were when it was last read
        self._shop = shop
        self._journal = Journal(
            shop.disk,
            shop.files.path(batch.output_file),
            shop.files.path(batch.error_file),
            batch.line_prefix,
        )
        self._saved_at = 0.0

    async def recover(self) -> None:
        """Read what stands in the files; what is damaged in them is cut off."""
        progress: Progress | None = None
        while progress is None:
            try:
                progress = await in_thread(self._journal.recover)
            except DiskTrouble as trouble:
                await self._pause(trouble.trouble, str(trouble))
        self.done = progress.done
        self.batch = msgspec.structs.replace(
            self.batch,
            n_completed=progress.n_completed,
            n_failed=progress.n_failed,
            usage=progress.usage,
            paused=None,
        )

    async def keep(self, records: Sequence[Record]) -> None:
        """On the disk they are when this returns; it waits for room."""
        todo = records
        while True:
            try:
                await in_thread(self._journal.keep, todo)
            except DiskTrouble as trouble:
                todo = ()  # the journal has them
                await self._pause(trouble.trouble, str(trouble))
            else:
                break
        if records:
            self._count(records)
            self._go_on()

    async def save_sometimes(self) -> None:
        """Keep how it stands, if that was not done lately."""
        if asyncio.get_running_loop().time() - self._saved_at >= SAVE_SECONDS:
            await self.save()

    async def save(self, over: Batch | None = None, made: Sequence[StoredFile] = ()) -> None:
        """Keep how it stands, or that it is over, with the files it has made; it waits for room."""
        while True:
            batch = self.batch if over is None else over
            try:
                await self._shop.database.write(partial(stored.save_batch, batch=batch, made=made))
            except StoreError as error:
                if error.fault not in ("full", "io"):
                    raise
                self.note_wait(error.fault, f"the database: {error}")
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                break
        self._saved_at = asyncio.get_running_loop().time()

    async def hand_over(self, ending: Ending, faults: tuple[Fault, ...] = ()) -> None:
        """It is over: its files are there for everybody, all in one transaction."""
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
        await self.save(over, made)  # before anybody can see that it is over
        self.batch = over
        await self._shop.files.measure()
        self._shop.counts.ended[ending] += 1
        log.info(
            "batch %s %s: %d lines answered, %d not", over.id, ending,
            over.n_completed, over.n_failed, extra={"batch": over.id},
        )  # fmt: skip

    async def read_once(self) -> None:
        """Read the files if that can be done, for a batch that cannot go on."""
        with suppress(DiskTrouble):
            await in_thread(self._journal.recover)

    async def close(self) -> None:
        """Let go of the files."""
        await in_thread(self._journal.close)

    def note_wait(self, reason: str, why: str) -> None:
        """Tell, once, that something has to be repaired before it goes on."""
        if self.batch.paused is None:
            self.batch = msgspec.structs.replace(self.batch, paused=why)
            self._shop.counts.pauses[reason] += 1
            log.error("batch %s waits: %s", self.batch.id, why, extra={"batch": self.batch.id})

    # --- parts ---------------------------------------------------------------------------------

    def _count(self, records: Sequence[Record]) -> None:
        n_good = sum(record.is_good for record in records)
        usage = self.batch.usage
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

    def _go_on(self) -> None:
        if self.batch.paused is not None:
            self.batch = msgspec.structs.replace(self.batch, paused=None)
            log.warning("batch %s goes on", self.batch.id, extra={"batch": self.batch.id})

    async def _pause(self, reason: str, why: str) -> None:
        self.note_wait(reason, why)
        with suppress(StoreError):  # where the disk is full, that may not be kept either
            await self._shop.database.write(partial(stored.save_batch, batch=self.batch))
        await asyncio.sleep(PAUSE_SECONDS)

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
