"""Schema: the migrations of one kind of database, in order; a step that was released never changes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from hearthd.store.errors import StoreError

if TYPE_CHECKING:
    import sqlite_utils

Step: TypeAlias = Callable[["sqlite_utils.Database"], None]

_APPLIED = "SELECT name FROM _sqlite_migrations WHERE migration_set = ?"


@dataclass(frozen=True, slots=True)
class Schema:
    """A name, functions that each bring the tables one step further, and where they are: "module:NAME"."""

    name: str
    steps: tuple[Step, ...]
    address: str

    def apply(self, connection: sqlite3.Connection, path: Path) -> int:
        """Do the steps that this file has not seen, each in a transaction; how many. Blocks.

        A child process does them: sqlite-utils loads NumPy and pandas where they are installed, and
        mostly there is nothing to do. Raises StoreError.
        """
        todo = len(self.steps) - len(self._applied(connection))
        if todo:
            child = subprocess.run(
                [sys.executable, "-m", "hearthd.store", str(path), self.address],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                check=False,
                start_new_session=True,  # a Ctrl-C for the daemon is none for a migration
            )
            if child.returncode:
                last_line = child.stderr.strip().rpartition("\n")[2]
                raise StoreError("failed", f"{path}: cannot be brought up to date: {last_line}")
        return todo

    def migrate(self, path: Path) -> None:
        """Do the steps in this process."""
        from sqlite_utils import Database
        from sqlite_utils.migrations import Migrations

        migrations = Migrations(self.name)
        for step in self.steps:
            migrations(name=step.__name__)(step)
        database = Database(path)
        try:
            migrations.apply(database)
        finally:
            database.close()

    def _applied(self, connection: sqlite3.Connection) -> set[str]:
        """Names of the steps done, of those that this program knows."""
        try:
            done = {name for (name,) in connection.execute(_APPLIED, (self.name,))}
        except sqlite3.OperationalError:
            return set()  # there is no such table in a new file
        return done & {step.__name__ for step in self.steps}
