"""Profiles: reports of devices, kept over restarts in a database of their own."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hearthd.hardware.checks import PairReport
from hearthd.store.database import Database
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
        self._database: Database | None = None

    async def load(self) -> list[PairReport]:
        """Every report, the newest first; none where nothing was saved yet. Raises StoreError."""
        if not await asyncio.to_thread(self._path.exists):
            return []
        return await (await self._open()).read(_load)

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
        if self._database is not None:
            await asyncio.to_thread(self._database.close)

    async def _open(self) -> Database:
        if self._database is None:
            self._database = await asyncio.to_thread(Database.open, self._path, SCHEMA)
        return self._database


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
