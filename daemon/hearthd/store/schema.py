"""Schema: the migrations of one kind of database, in order; a step that was released never changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import sqlite_utils

Step: TypeAlias = Callable[["sqlite_utils.Database"], None]

_APPLIED = "SELECT name FROM _sqlite_migrations WHERE migration_set = ?"


@dataclass(frozen=True, slots=True)
class Schema:
    """A name, and functions that each bring the tables one step further."""

    name: str
    steps: tuple[Step, ...]

    def apply(self, connection: sqlite3.Connection) -> int:
        """Do the steps that this database has not seen, each in a transaction; how many. Blocks."""
        todo = len(self.steps) - len(self._applied(connection))
        if todo:
            # A fifth of a second to import, and mostly there is nothing to do.
            from sqlite_utils import Database
            from sqlite_utils.migrations import Migrations

            migrations = Migrations(self.name)
            for step in self.steps:
                migrations(name=step.__name__)(step)
            migrations.apply(Database(connection))
        return todo

    def _applied(self, connection: sqlite3.Connection) -> set[str]:
        """Names of the steps done, of those that this program knows."""
        try:
            done = {name for (name,) in connection.execute(_APPLIED, (self.name,))}
        except sqlite3.OperationalError:
            return set()  # there is no such table in a new file
        return done & {step.__name__ for step in self.steps}
