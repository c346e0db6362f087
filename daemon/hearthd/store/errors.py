"""StoreError: what a database said no with, in one word that callers can act on."""

from __future__ import annotations

import sqlite3
from typing import Literal, TypeAlias

StoreFault: TypeAlias = Literal["full", "corrupt", "io", "closed", "failed"]

_FAULTS: dict[int, StoreFault] = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_CANTOPEN: "io",
    sqlite3.SQLITE_READONLY: "io",
}
_PRIMARY = 0xFF  # the rest of a code says where it happened


class StoreError(Exception):
    """The database could not do it; nothing of the work is in it."""

    def __init__(self, fault: StoreFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


def store_error(error: sqlite3.Error) -> StoreError:
    """SQLite's error as one of ours. Pure."""
    code = getattr(error, "sqlite_errorcode", None)
    fault = _FAULTS.get(code & _PRIMARY, "failed") if isinstance(code, int) else "failed"
    return StoreError(fault, str(error))
