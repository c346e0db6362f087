"""ExactCache: answers on disk by fingerprint, within a budget of bytes; its faults are counted, never raised."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from hearthd.cache import answers
from hearthd.cache.answers import Order, Selection
from hearthd.cache.counts import Counts
from hearthd.cache.entry import Entry, Listed, ScopeSum
from hearthd.cache.fingerprint import Fingerprint
from hearthd.cache.frequency import FrequencySketch
from hearthd.cache.known import BEGINNING, KnownKeys
from hearthd.cache.recording import BadRecording, Recording, pack, unpack
from hearthd.cache.tables import SCHEMA
from hearthd.store.database import Database, Work
from hearthd.store.errors import StoreError, StoreFault

log = logging.getLogger(__name__)

T = TypeVar("T")

FIND_SECONDS: Final = 1.0
"""A lookup that takes longer is given up: the answer is computed."""
TICK_SECONDS: Final = 1.0
_AFTER_FAULT_SECONDS: Final = 30.0  # without writing, before it is tried again
_MOST_PENDING: Final = 256  # answers on their way to the disk
_TOP: Final = 10
_EXPIRE_TICKS: Final = 60
_KEYS: Final = 5000  # read at once: a few milliseconds, for which a lookup may have to wait
_BETWEEN_KEYS_SECONDS: Final = 0.02  # for those who start, or are served


class ExactCache:
    """Belongs to the event loop; all that takes time happens in the database's threads."""

    def __init__(
        self,
        path: Path,
        counts: Counts,
        *,
        budget_bytes: int,
        entry_bytes: int,
        ttl_seconds: Mapping[str, float],
    ) -> None:
        """`ttl_seconds` by model; `entry_bytes`: a larger answer is not kept."""
        self._path = path
        self._counts = counts
        self._budget_bytes = budget_bytes
        self._entry_bytes = entry_bytes
        self.ttl_seconds = ttl_seconds
        self._frequency = FrequencySketch()
        self._known = KnownKeys()
        self._database: Database | None = None
        self._hits: dict[bytes, tuple[int, float]] = {}  # not yet written
        self._n_pending = 0
        self._no_writes_until = 0.0
        self._alerted: set[StoreFault] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()  # or found that it cannot be
        self._keys_read = asyncio.Event()
        self.top: list[Listed] = []  # of a moment ago, by count and then by time saved, each once

    # --- life ----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the file; one that is damaged is set aside, and without any the cache finds nothing.

        Until then nothing is found, and what is to be kept waits.
        """
        try:
            self._database = await asyncio.to_thread(_open, self._path)
            await self._measure(self._database)
            self._keeper = asyncio.create_task(self._keep(self._database), name="cache")
        except StoreError as error:
            self._fault(error)
        finally:
            self._opened.set()

    async def keys_read(self) -> None:
        """Wait until it is known what there is; until then all is looked for."""
        await self._keys_read.wait()

    async def close(self) -> None:
        """Write what is still in memory, and close."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._database is not None:
            with suppress(StoreError):
                await self._write_hits(self._database)
            await asyncio.to_thread(self._database.close)
            self._database = None

    # --- answers -------------------------------------------------------------------------------

    async def find(self, fingerprint: Fingerprint) -> tuple[Entry, Recording] | None:
        """The answer, whole and unpacked; None where there is none, or it cannot be had now."""
        self._frequency.add(fingerprint.key)
        if self._database is None or fingerprint.key not in self._known:
            return None
        try:
            async with asyncio.timeout(FIND_SECONDS):
                return await self._database.read(lambda c: _found(c, fingerprint))
        except TimeoutError:
            self._counts.fault("slow")
        except BadRecording as error:
            self._counts.fault("damaged")
            log.warning("an answer in the cache is damaged and dropped: %s", error)
            await self.drop(Selection(key=fingerprint.key.hex()))
        except StoreError as error:
            self._fault(error)
        return None

    def asked(self, key: bytes) -> None:
        """Count that somebody wanted this answer and found it in memory."""
        self._frequency.add(key)

    def hit(self, key: bytes, now: float) -> None:
        """Count a hit; written a little later."""
        n, _ = self._hits.get(key, (0, now))
        self._hits[key] = (n + 1, now)

    async def put(
        self, fingerprint: Fingerprint, recording: Recording, cost_seconds: float, question: str
    ) -> None:
        """Keep an answer, if the budget has room for it or it is wanted more than others."""
        if self._n_pending < _MOST_PENDING:
            self._n_pending += 1
            try:
                await self._opened.wait()
            finally:
                self._n_pending -= 1
        database = self._database
        if database is None or time.monotonic() < self._no_writes_until:
            return
        if self._n_pending >= _MOST_PENDING:
            self._counts.fault("busy")
            return
        self._n_pending += 1
        self._known.add(fingerprint.key)
        try:
            put = await database.write(
                lambda c: self._put(c, fingerprint, recording, cost_seconds, question)
            )
        except StoreError as error:
            self._no_writes_until = time.monotonic() + _AFTER_FAULT_SECONDS
            self._fault(error)
            return
        finally:
            self._n_pending -= 1
        self._recovered()
        self._counts.put(put)
        self._counts.n_entries, self._counts.n_bytes = put.n_answers, put.n_bytes

    def _put(
        self,
        connection: answers.Connection,
        fingerprint: Fingerprint,
        recording: Recording,
        cost_seconds: float,
        question: str,
    ) -> answers.Put:
        """In the writer's thread."""
        entry = Entry(
            key=fingerprint.key,
            scope=fingerprint.scope,
            created=float(recording.created),
            cost_seconds=cost_seconds,
            n_prompt=recording.n_prompt,
            n_output=recording.n_output,
            question=question,
            body=pack(recording),
        )
        if entry.n_bytes > self._entry_bytes:
            return answers.Put(False, 0, *answers.sum_of(connection))
        return answers.put(connection, entry, self._budget_bytes, self._frequency.estimate)

    async def read(self, work: Work[T], otherwise: T) -> T:
        """What a reading finds; `otherwise` where it cannot be had, which is counted."""
        try:
            return await self._open_one.read(work)
        except StoreError as error:
            self._fault(error)
        return otherwise

    async def write(self, work: Work[object]) -> None:
        """Write something; that it could not be is counted."""
        try:
            await self._open_one.write(work)
        except StoreError as error:
            self._fault(error)

    # --- administration ------------------------------------------------------------------------

    async def drop(self, which: Selection) -> int:
        """Delete all that is selected; how many. What the database cannot do is counted as a fault."""
        n_dropped = 0
        database = self._database
        if database is None:
            return 0
        try:
            while n := await database.write(lambda c: answers.drop(c, which)):
                n_dropped += n
        except StoreError as error:
            self._fault(error)
        await self._measure(database)
        return n_dropped

    async def listed(self, which: Selection, order: Order, limit: int) -> list[Listed]:
        """Raises StoreError."""
        return await self._open_one.read(lambda c: answers.listed(c, which, order, limit))

    async def scopes(self, partition: str | None) -> list[ScopeSum]:
        """Raises StoreError."""
        return await self._open_one.read(lambda c: answers.scopes(c, partition))

    async def page(self, which: Selection, after: int, limit: int) -> tuple[int, list[Entry]]:
        """Raises StoreError."""
        return await self._open_one.read(lambda c: answers.page(c, which, after, limit))

    async def load(self, entries: list[Entry]) -> int:
        """Take entries of another cache in, within the budget; how many. Raises BadRecording, StoreError."""

        def work(connection: answers.Connection) -> int:
            for entry in entries:
                unpack(entry.body, entry.key)
            puts = [
                answers.put(connection, entry, self._budget_bytes, self._frequency.estimate)
                for entry in entries
            ]
            return sum(put.kept for put in puts)

        for entry in entries:
            self._known.add(entry.key)
        n_kept = await self._open_one.write(work)
        await self._measure(self._open_one)
        return n_kept

    @property
    def _open_one(self) -> Database:
        if self._database is None:
            raise StoreError("closed", "the cache's database could not be opened")
        return self._database

    # --- keeping it in order -------------------------------------------------------------------

    async def _keep(self, database: Database) -> None:
        n_ticks = 0
        await self._read_keys(database)
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if time.monotonic() < self._no_writes_until:
                continue
            try:
                await self._write_hits(database)
                await self._in_budget(database)
                if n_ticks % _EXPIRE_TICKS == 0:
                    await self._expire(database)
                if self._known.are_many_new:
                    await self._read_keys(database)
                n_ticks += 1
            except StoreError as error:
                self._no_writes_until = time.monotonic() + _AFTER_FAULT_SECONDS
                self._fault(error)

    async def _read_keys(self, database: Database) -> None:
        """Learn what there is, a few keys at a time: lookups go on between them."""
        self._known.begin()
        read, last = bytearray(), b""
        try:
            await database.write(lambda c: None)  # what was to be kept until now is on disk
            while True:
                some, last = await database.read(
                    partial(answers.beginnings, after=last, limit=_KEYS, n_bytes=BEGINNING)
                )
                read += some
                if not last:
                    break
                await asyncio.sleep(_BETWEEN_KEYS_SECONDS)
        except StoreError as error:
            self._fault(error)
        else:
            self._known.end(bytes(read))
            self._keys_read.set()

    async def _write_hits(self, database: Database) -> None:
        hits, self._hits = self._hits, {}
        if hits:
            await database.write(lambda c: answers.touch(c, hits))
            await self._measure(database)

    async def _in_budget(self, database: Database) -> None:
        while self._counts.n_bytes > self._budget_bytes:
            n_gone = await database.write(lambda c: answers.trim(c, self._budget_bytes))
            self._counts.evicted(n_gone)
            await self._measure(database)
            if not n_gone:
                return

    async def _expire(self, database: Database) -> None:
        for model, seconds in self.ttl_seconds.items():
            before = time.time() - seconds
            while n := await database.write(partial(answers.expire, model=model, before=before)):
                self._counts.expired(n)
        await self._measure(database)

    async def _measure(self, database: Database) -> None:
        try:
            sums = await database.read(answers.sum_of)
            self.top = await database.read(_top)
        except StoreError as error:
            self._fault(error)
        else:
            self._counts.n_entries, self._counts.n_bytes = sums

    # --- faults --------------------------------------------------------------------------------

    def _fault(self, error: StoreError) -> None:
        """Count it, and say it once until it is over."""
        self._counts.fault(error.fault)
        if error.fault not in self._alerted:
            self._alerted.add(error.fault)
            log.warning(
                "the cache of answers cannot use %s (%s): answers are computed, not kept",
                self._path, error, extra={"fault": error.fault},
            )  # fmt: skip

    def _recovered(self) -> None:
        if self._alerted:
            self._alerted.clear()
            log.info("the cache of answers works again")


def _found(connection: answers.Connection, wanted: Fingerprint) -> tuple[Entry, Recording] | None:
    """In the reader's thread; raises BadRecording."""
    entry = answers.find(connection, wanted.key, wanted.scope)
    return None if entry is None else (entry, unpack(entry.body, entry.key))


def _top(connection: answers.Connection) -> list[Listed]:
    """The most frequent answers, and those that spared most time."""
    everything = Selection()
    by_hits = answers.listed(connection, everything, "hits", _TOP)
    by_saved = answers.listed(connection, everything, "saved", _TOP)
    return list({answer.key: answer for answer in (*by_hits, *by_saved)}.values())


def _open(path: Path) -> Database:
    """The database; a damaged file is set aside and a new one begun. Blocks; raises StoreError."""
    try:
        return Database.open(path, SCHEMA)
    except StoreError as error:
        if error.fault != "corrupt":
            raise
        log.warning("%s is damaged (%s) and set aside; the cache begins anew", path, error)
    for suffix in ("", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.replace(file.with_name(f"{path.name}.damaged{suffix}"))
    return Database.open(path, SCHEMA)
