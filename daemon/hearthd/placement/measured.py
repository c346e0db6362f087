"""MeasuredFile: what loads were measured to take, kept over restarts in a database of its own."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hearthd.placement.corrections import Corrections, Key, Measured
from hearthd.store.database import Database
from hearthd.store.errors import StoreError
from hearthd.store.schema import Schema

if TYPE_CHECKING:
    import sqlite_utils

log = logging.getLogger(__name__)

FILE_NAME = "memory.db"
_SAVE = """
    INSERT INTO measured (model, backend, device, settings, body) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (model, backend, device, settings) DO UPDATE SET body = excluded.body
"""


def m001_measured(db: sqlite_utils.Database) -> None:
    """The highest peak of each load, as JSON."""
    db.execute(
        """
        CREATE TABLE measured (
            model TEXT NOT NULL,
            backend TEXT NOT NULL,
            device TEXT NOT NULL,
            settings TEXT NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (model, backend, device, settings)
        )
        """
    )


SCHEMA = Schema("memory", (m001_measured,), "hearthd.placement.measured:SCHEMA")


class MeasuredFile:
    """The file is made when something is kept first; a fault of it costs what it would have kept, and is logged."""

    def __init__(self, folder: Path, corrections: Corrections) -> None:
        self._path = folder / FILE_NAME
        self._corrections = corrections
        self._lock = asyncio.Lock()
        self._database: Database | None = None
        self._saving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Take in what was kept; hear of what is measured from now on."""
        self._corrections.record = self._keep
        if not await asyncio.to_thread(self._path.exists):
            return
        try:
            database = await self._opened()
            self._corrections.take_in(await database.read(_load))
        except StoreError as error:
            log.warning("what loads took before cannot be read: %s", error)

    async def close(self) -> None:
        """Finish what is to be kept, and let go of the file."""
        await asyncio.gather(*self._saving, return_exceptions=True)
        if self._database is not None:
            await asyncio.to_thread(self._database.close)

    def _keep(self, key: Key, measured: Measured) -> None:
        log.info(
            "%s on %s with %s: %d bytes planned, %d at most measured",
            key.model, key.device, key.backend, measured.planned_bytes, measured.peak_bytes,
        )  # fmt: skip
        task = asyncio.create_task(self._save(key, measured), name="what a load took")
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)

    async def _save(self, key: Key, measured: Measured) -> None:
        row = (*msgspec.structs.astuple(key), msgspec.json.encode(measured))
        try:
            await (await self._opened()).write(lambda connection: _insert(connection, row))
        except StoreError as error:
            log.warning("what a load took cannot be kept: %s", error)

    async def _opened(self) -> Database:
        async with self._lock:
            if self._database is None:
                self._database = await asyncio.to_thread(Database.open, self._path, SCHEMA)
            return self._database


def _load(connection: sqlite3.Connection) -> dict[Key, Measured]:
    rows = connection.execute(
        "SELECT model, backend, device, settings, body FROM measured ORDER BY rowid"
    ).fetchall()
    return {Key(*key): msgspec.json.decode(body, type=Measured) for *key, body in rows}


def _insert(connection: sqlite3.Connection, row: tuple[object, ...]) -> None:
    connection.execute(_SAVE, row)
