"""Tables of the database of batches: files, and the batches that read and write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hearthd.store.schema import Schema

if TYPE_CHECKING:
    import sqlite_utils


def m001_batches(db: sqlite_utils.Database) -> None:
    """`number` orders by time of creation; a batch is kept as JSON, with what is searched for beside it."""
    for statement in (
        """
        CREATE TABLE files (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            purpose TEXT NOT NULL,
            name TEXT NOT NULL,
            n_bytes INTEGER NOT NULL,
            created REAL NOT NULL,
            expires REAL
        )
        """,
        """
        CREATE TABLE batches (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            status TEXT NOT NULL,
            input_file TEXT NOT NULL,
            is_over INTEGER NOT NULL,
            record TEXT NOT NULL
        )
        """,
        "CREATE INDEX batches_unfinished ON batches (input_file) WHERE NOT is_over",
        "CREATE INDEX files_expires ON files (expires) WHERE expires IS NOT NULL",
    ):
        db.execute(statement)


def m002_ended(db: sqlite_utils.Database) -> None:
    """When a batch was over, to find those that have been kept long enough."""
    for statement in (
        "ALTER TABLE batches ADD COLUMN ended REAL",
        """
        UPDATE batches SET ended = coalesce(
            json_extract(record, '$.completed'), json_extract(record, '$.failed'),
            json_extract(record, '$.expired'), json_extract(record, '$.cancelled')
        ) WHERE is_over
        """,
        "CREATE INDEX batches_ended ON batches (ended) WHERE ended IS NOT NULL",
    ):
        db.execute(statement)


SCHEMA = Schema("batch", (m001_batches, m002_ended), "hearthd.batch.tables:SCHEMA")
