"""Action: one thing that an operator did or tried, for the record."""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

MOST_KEPT: Final = 100_000
"""Actions; the oldest make way."""


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, when, from where, and what came of it."""

    at: float  # unix seconds
    who: str  # the key's name, or whom no key stands for
    origin: str  # an address, or "unix uid 1000 pid 4711"
    action: str  # "POST /api/v1/keys"
    detail: str  # of what
    status: int  # of HTTP
    request_id: str


_FIELDS: Final = ", ".join(Action.__struct_fields__)


def add(connection: sqlite3.Connection, action: Action) -> None:
    """Keep one; blocks."""
    marks = ", ".join("?" for _ in Action.__struct_fields__)
    cursor = connection.execute(
        f"INSERT INTO actions ({_FIELDS}) VALUES ({marks})",  # noqa: S608  # columns are ours
        msgspec.structs.astuple(action),
    )
    last = cursor.lastrowid or 0
    connection.execute("DELETE FROM actions WHERE id <= ?", (last - MOST_KEPT,))


def latest(connection: sqlite3.Connection, limit: int) -> list[Action]:
    """The last of them, the newest first; blocks."""
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM actions ORDER BY id DESC LIMIT ?",  # noqa: S608  # columns are ours
        (limit,),
    )
    return [Action(**dict(zip(Action.__struct_fields__, row, strict=True))) for row in rows]
