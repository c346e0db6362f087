"""A database of notes, in two versions."""

from __future__ import annotations

from sqlite_utils import Database

from hearthd.store.schema import Schema


def notes(db: Database) -> None:
    """The first version."""
    db.table("notes").create({"id": int, "text": str}, pk="id")


def authors(db: Database) -> None:
    """What the second adds."""
    db.table("notes").add_column("author", str)


def broken(db: Database) -> None:
    """A step that does not work."""
    db.execute("ALTER TABLE missing ADD COLUMN more")


FIRST = Schema("notes", (notes,), "note_tables:FIRST")
BOTH = Schema("notes", (notes, authors), "note_tables:BOTH")
BROKEN = Schema("notes", (notes, broken), "note_tables:BROKEN")
