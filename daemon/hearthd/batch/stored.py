"""Stored: rows of files and batches; every function runs in a thread of the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from hearthd.batch.batch import Batch, Status

Order = Literal["asc", "desc"]


class StoredFile(msgspec.Struct, frozen=True):
    """A file that was uploaded, or that a batch wrote. Moments are unix seconds."""

    id: str
    owner: str  # a principal's name
    purpose: str
    name: str
    n_bytes: int
    created: float
    expires: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    limit: int
    after: str | None = None  # the id of the last one before it
    order: Order = "desc"
    owner: str | None = None  # None: of everybody
    purpose: str | None = None


_FILE_FIELDS: Final = "id, owner, purpose, name, n_bytes, created, expires"
_batch_decoder = msgspec.json.Decoder(Batch)


# --- files -------------------------------------------------------------------------------------


def add_file(connection: sqlite3.Connection, file: StoredFile) -> None:
    """Keep one."""
    connection.execute(
        f"INSERT OR REPLACE INTO files ({_FILE_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  # names are ours
        msgspec.structs.astuple(file),
    )


def file_of(connection: sqlite3.Connection, file_id: str) -> StoredFile | None:
    """The one of this id."""
    rows = connection.execute(f"SELECT {_FILE_FIELDS} FROM files WHERE id = ?", (file_id,))  # noqa: S608  # names are ours
    return next((StoredFile(*row) for row in rows), None)


def files(connection: sqlite3.Connection, page: Page) -> list[StoredFile]:
    """Some of them, and one more where there are more."""
    rows = _rows(connection, "files", _FILE_FIELDS, page)
    return [StoredFile(*row) for row in rows]


def drop_file(connection: sqlite3.Connection, file_id: str) -> None:
    """Forget one."""
    connection.execute("DELETE FROM files WHERE id = ?", (file_id,))


def stored_bytes(connection: sqlite3.Connection) -> int:
    """Of all files."""
    (n_bytes,) = connection.execute("SELECT coalesce(sum(n_bytes), 0) FROM files").fetchone()
    return int(n_bytes)


def expired_files(connection: sqlite3.Connection, now: float, most: int) -> list[str]:
    """Ids of some whose time is over and that no batch reads."""
    rows = connection.execute(
        "SELECT id FROM files WHERE expires <= ? AND NOT EXISTS"
        " (SELECT 1 FROM batches WHERE input_file = files.id AND NOT is_over) LIMIT ?",
        (now, most),
    )
    return [file_id for (file_id,) in rows]


def file_ids(connection: sqlite3.Connection) -> set[str]:
    """Of all files, and of those that batches write."""
    known = {file_id for (file_id,) in connection.execute("SELECT id FROM files")}
    for batch in unfinished(connection):
        known.update((batch.output_file, batch.error_file))
    return known


def is_read(connection: sqlite3.Connection, file_id: str) -> bool:
    """Whether a batch reads it."""
    rows = connection.execute(
        "SELECT 1 FROM batches WHERE input_file = ? AND NOT is_over LIMIT 1", (file_id,)
    )
    return rows.fetchone() is not None


# --- batches -----------------------------------------------------------------------------------


def add_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Keep a new one."""
    connection.execute(
        "INSERT INTO batches (id, owner, input_file, status, is_over, record)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (batch.id, batch.owner, batch.input_file, batch.status, batch.is_over, _encoded(batch)),
    )


def save_batch(
    connection: sqlite3.Connection, batch: Batch, made: Sequence[StoredFile] = ()
) -> None:
    """Keep what has become of one, with the files it has made."""
    for file in made:
        add_file(connection, file)
    connection.execute(
        "UPDATE batches SET status = ?, is_over = ?, ended = ?, record = ? WHERE id = ?",
        (batch.status, batch.is_over, batch.ended, _encoded(batch), batch.id),
    )


def drop_old_batches(connection: sqlite3.Connection, ended_by: float, most: int) -> int:
    """Forget some that were over by then and whose answers have gone; how many. 0: there is none left."""
    cursor = connection.execute(
        "DELETE FROM batches WHERE number IN (SELECT number FROM batches WHERE ended <= ?"
        " AND NOT EXISTS (SELECT 1 FROM files WHERE files.id IN"
        " (json_extract(record, '$.output_file'), json_extract(record, '$.error_file')))"
        " LIMIT ?)",
        (ended_by, most),
    )
    connection.execute(f"PRAGMA incremental_vacuum({most})").fetchall()
    return cursor.rowcount


def batch_of(connection: sqlite3.Connection, batch_id: str) -> Batch | None:
    """The one of this id."""
    rows = connection.execute("SELECT record FROM batches WHERE id = ?", (batch_id,))
    return next((_batch_decoder.decode(record) for (record,) in rows), None)


def batches(connection: sqlite3.Connection, page: Page) -> list[Batch]:
    """Some of them, and one more where there are more."""
    return [
        _batch_decoder.decode(record) for (record,) in _rows(connection, "batches", "record", page)
    ]


def unfinished(connection: sqlite3.Connection) -> list[Batch]:
    """Those that are not over, the oldest first."""
    rows = connection.execute("SELECT record FROM batches WHERE NOT is_over ORDER BY number")
    return [_batch_decoder.decode(record) for (record,) in rows]


def count_by_status(connection: sqlite3.Connection) -> dict[Status, int]:
    """How many batches there are."""
    rows = connection.execute("SELECT status, count(*) FROM batches GROUP BY status")
    return dict(rows.fetchall())


# --- parts -------------------------------------------------------------------------------------


def _encoded(batch: Batch) -> str:
    return msgspec.json.encode(batch).decode()


def _rows(
    connection: sqlite3.Connection, table: str, fields: str, page: Page
) -> list[tuple[Any, ...]]:
    descending = page.order == "desc"
    wheres, values = ["1"], list[object]()
    if page.owner is not None:
        wheres.append("owner = ?")
        values.append(page.owner)
    if page.purpose is not None:
        wheres.append("purpose = ?")
        values.append(page.purpose)
    if page.after is not None:
        sign = "<" if descending else ">"
        wheres.append(f"number {sign} (SELECT number FROM {table} WHERE id = ?)")  # noqa: S608  # names are ours
        values.append(page.after)
    order = "DESC" if descending else "ASC"
    return connection.execute(
        f"SELECT {fields} FROM {table} WHERE {' AND '.join(wheres)}"  # noqa: S608  # names are ours
        f" ORDER BY number {order} LIMIT ?",
        (*values, page.limit + 1),
    ).fetchall()
