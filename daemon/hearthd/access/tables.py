"""Tables of the database of access: keys that were given out, and the record of what operators did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hearthd.store.schema import Schema

if TYPE_CHECKING:
    import sqlite_utils


def m001_keys(db: sqlite_utils.Database) -> None:
    """Keys by name; `settings` is what [keys.NAME] would say, in JSON, and has the hash."""
    db.execute(
        """
        CREATE TABLE keys (
            name TEXT PRIMARY KEY,
            created REAL NOT NULL,
            settings TEXT NOT NULL
        )
        """
    )


def m002_actions(db: sqlite_utils.Database) -> None:
    """What was done or tried, by whom, from where, with which outcome."""
    db.execute(
        """
        CREATE TABLE actions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at REAL NOT NULL,
            who TEXT NOT NULL,
            origin TEXT NOT NULL,
            action TEXT NOT NULL,
            detail TEXT NOT NULL,
            status INTEGER NOT NULL,
            request_id TEXT NOT NULL
        )
        """
    )


ACCESS = Schema("access", (m001_keys, m002_actions), "hearthd.access.tables:ACCESS")
