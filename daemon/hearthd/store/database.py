"""Database: one SQLite file in WAL mode; one thread writes, another reads, neither is the event loop's."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TypeAlias, TypeVar

from hearthd.store.errors import StoreError, store_error
from hearthd.store.schema import Schema

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]
"""Runs in the database's own thread, alone with the connection."""

_BUSY_SECONDS = 5.0
_CACHE_KIB = 4096  # of pages, for each connection
_CHECKPOINT_PAGES = 1000


class Database:
    """Made with `open`. What was written and answered survives the process, however it ends.

    (Not always the machine: the last moments before a power cut may be lost, whole transactions at a
    time.)
    """

    def __init__(self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection) -> None:
        self.path = path
        self._connections = (writer, reader)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix=f"{path.stem}-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix=f"{path.stem}-read")

    @classmethod
    def open(cls, path: Path, schema: Schema) -> Database:
        """Open, or make, a file and bring its tables up to date. Blocks; raises StoreError."""
        with ExitStack() as stack:
            try:
                path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
                path.touch(mode=0o600)  # SQLite's other files take its rights
                writer = stack.enter_context(closing(_connect(path)))
                writer.execute("PRAGMA auto_vacuum = INCREMENTAL")  # counts for a new file only
                writer.execute("PRAGMA journal_mode = WAL")
                schema.apply(writer, path)
                reader = stack.enter_context(closing(_connect(path)))
                reader.execute("PRAGMA query_only = ON")
            except OSError as error:
                raise StoreError("io", f"{path}: {error.strerror or error}") from error
            except sqlite3.Error as error:
                raise store_error(error) from error
            stack.pop_all()
        return cls(path, writer, reader)

    def write(self, work: Work[T]) -> asyncio.Future[T]:
        """Do something in one transaction, after what was asked for before; raises StoreError.

        Cancelling the wait does not undo it.
        """
        return self._submit(self._writer, _in_transaction, self._connections[0], work)

    def read(self, work: Work[T]) -> asyncio.Future[T]:
        """Read what has been committed; raises StoreError."""
        return self._submit(self._reader, _reading, self._connections[1], work)

    def close(self) -> None:
        """Finish what was asked for, and close. Blocks; idempotent."""
        for pool in (self._writer, self._reader):
            pool.shutdown(wait=True)
        for connection in self._connections:
            connection.close()

    @staticmethod
    def _submit(
        pool: ThreadPoolExecutor,
        run: Callable[[sqlite3.Connection, Work[T]], T],
        connection: sqlite3.Connection,
        work: Work[T],
    ) -> asyncio.Future[T]:
        try:
            return asyncio.wrap_future(pool.submit(run, connection, work))
        except RuntimeError as error:  # how a pool says that it has been shut down
            raise StoreError("closed", "the database is closed") from error


def _connect(path: Path) -> sqlite3.Connection:
    """A connection without transactions of its own; one thread at a time uses it."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    return connection


def _in_transaction(connection: sqlite3.Connection, work: Work[T]) -> T:
    try:
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls some errors back
                connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise store_error(error) from error
    return result


def _reading(connection: sqlite3.Connection, work: Work[T]) -> T:
    try:
        return work(connection)
    except sqlite3.Error as error:
        raise store_error(error) from error
