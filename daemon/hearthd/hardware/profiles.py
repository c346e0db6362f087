"""Profiles: reports of devices, kept over restarts in a database of their own."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hearthd.hardware.checks import PairReport
from hearthd.store.database import Database
from hearthd.store.errors import StoreError
from hearthd.store.schema import Schema

if TYPE_CHECKING:
    import sqlite_utils

FILE_NAME = "devices.db"

_SAVE = """
    INSERT INTO reports (identity, backend, version, unix_seconds, body) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (identity, backend, version)
    DO UPDATE SET unix_seconds = excluded.unix_seconds, body = excluded.body
"""


def m001_reports(db: sqlite_utils.Database) -> None:
    """The last report of each device, backend and version, as JSON."""
    db.execute(
        """
        CREATE TABLE reports (
            identity TEXT NOT NULL,
            backend TEXT NOT NULL,
            version TEXT NOT NULL,
            unix_seconds REAL NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (identity, backend, version)
        )
        """
    )


SCHEMA = Schema("devices", (m001_reports,), "hearthd.hardware.profiles:SCHEMA")


class Profiles:
    """The file is made when something is saved first."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._opening: asyncio.Task[Database] | None = None
        self._seen: int | None = None  # SQLite's number of what others committed

    async def load(self) -> list[PairReport]:
        """Every report, the newest first; none where nothing was saved yet. Raises StoreError."""
        self._seen = None
        return await self.load_changed() or []

    async def load_changed(self) -> list[PairReport] | None:
        """The same where something was saved, by anybody, since the last time; raises StoreError."""
        if not await asyncio.to_thread(self._path.exists):
            return None
        database = await self._open()
        seen = await database.read(_data_version)
        if seen == self._seen:
            return None
        self._seen = seen
        return await database.read(_load)

    async def save(self, report: PairReport) -> None:
        """Keep a report in place of the last one of its pair and version; raises StoreError."""
        row = (
            report.identity,
            report.backend,
            report.version,
            report.unix_seconds,
            msgspec.json.encode(report),
        )
        await (await self._open()).write(lambda connection: _save(connection, row))

    async def close(self) -> None:
        """Let go of the file."""
        if self._opening is None:
            return
        try:
            database = await self._opening
        except StoreError:
            return  # whoever wanted it has been told
        await asyncio.to_thread(database.close)

    async def _open(self) -> Database:
        """The database; whoever is cancelled meanwhile leaves it to be closed."""
        if self._opening is None or _has_failed(self._opening):
            work = asyncio.to_thread(Database.open, self._path, SCHEMA)
            self._opening = asyncio.create_task(work, name="reports of devices")
        return await asyncio.shield(self._opening)


def _has_failed(task: asyncio.Task[Database]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _data_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _load(connection: sqlite3.Connection) -> list[PairReport]:
    rows = connection.execute("SELECT body FROM reports ORDER BY unix_seconds DESC").fetchall()
    reports = []
    for (body,) in rows:
        try:
            reports.append(msgspec.json.decode(body, type=PairReport))
        except msgspec.MsgspecError:
            continue  # of another release: it is tested again
    return reports


def _save(connection: sqlite3.Connection, row: tuple[str, str, str, float, bytes]) -> None:
    connection.execute(_SAVE, row)
