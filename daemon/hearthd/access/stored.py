"""Stored: the keys that were given out at run time, as rows of the database; everything here blocks."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hearthd.config.schema import KeyConfig

log = logging.getLogger(__name__)

FILE_NAME = "access.db"

_decoder = msgspec.json.Decoder(KeyConfig)


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is kept."""

    name: str
    created: float  # unix seconds
    config: KeyConfig


def add(connection: sqlite3.Connection, key: StoredKey) -> None:
    """Keep one; raises sqlite3.IntegrityError where the name is taken."""
    connection.execute(
        "INSERT INTO keys (name, created, settings) VALUES (?, ?, ?)",
        (key.name, key.created, msgspec.json.encode(key.config).decode()),
    )


def remove(connection: sqlite3.Connection, name: str) -> None:
    """Forget one."""
    connection.execute("DELETE FROM keys WHERE name = ?", (name,))


def read_all(connection: sqlite3.Connection) -> list[StoredKey]:
    """All of them; one that cannot be read, such as a newer hearthd's, is told and counts for nothing."""
    keys = []
    rows = connection.execute("SELECT name, created, settings FROM keys ORDER BY created, name")
    for name, created, settings in rows:
        try:
            keys.append(StoredKey(name, created, _decoder.decode(settings)))
        except msgspec.MsgspecError as error:
            log.error("the key %s cannot be read and opens nothing: %s", name, error)
    return keys


def count(state: Path) -> int:
    """How many there are in a state directory, before anything is opened; 0 where that cannot be told."""
    path = state / FILE_NAME
    if not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            (n,) = connection.execute("SELECT count(*) FROM keys").fetchone()
            return int(n)
    except sqlite3.Error:
        return 0
