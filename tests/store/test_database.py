"""Databases: one writer, transactions that are whole or nothing, migrations, faults with a name."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest
from note_tables import BOTH, BROKEN, FIRST

from hearthd.store.database import Database, Work
from hearthd.store.errors import StoreError
from hearthd.store.schema import Schema


def insert(text: str) -> Work[sqlite3.Cursor]:
    return lambda connection: connection.execute("INSERT INTO notes (text) VALUES (?)", (text,))


async def texts(database: Database) -> list[str]:
    return await database.read(
        lambda c: [text for (text,) in c.execute("SELECT text FROM notes ORDER BY id")]
    )


async def opened(path: Path, schema: Schema = FIRST) -> Database:
    return await asyncio.to_thread(Database.open, path, schema)


async def closed(database: Database) -> None:
    await asyncio.to_thread(database.close)


async def test_what_was_written_is_read_and_outlives_the_connection(tmp_path: Path) -> None:
    database = await opened(tmp_path / "sub" / "n.db")
    await asyncio.gather(*(database.write(insert(f"{i}")) for i in range(20)))
    assert await texts(database) == [f"{i}" for i in range(20)]
    await closed(database)
    database = await opened(tmp_path / "sub" / "n.db")
    assert len(await texts(database)) == 20
    await closed(database)


async def test_one_thread_writes_another_reads_and_neither_is_the_loops(tmp_path: Path) -> None:
    database = await opened(tmp_path / "n.db")
    who = lambda _: threading.get_ident()  # noqa: E731
    writers = {await database.write(who) for _ in range(5)}
    readers = {await database.read(who) for _ in range(5)}
    assert len(writers) == len(readers) == 1
    assert len({*writers, *readers, threading.get_ident()}) == 3
    await closed(database)


async def test_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = await opened(tmp_path / "n.db")

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO notes (text) VALUES ('half')")
        raise ValueError("the other half")

    with pytest.raises(ValueError, match="other half"):
        await database.write(half)
    with pytest.raises(StoreError) as caught:
        await database.write(lambda c: c.execute("INSERT INTO nothing VALUES (1)"))
    assert caught.value.fault == "failed"
    assert await texts(database) == []
    await database.write(insert("whole"))
    assert await texts(database) == ["whole"]
    await closed(database)


async def test_readers_cannot_write(tmp_path: Path) -> None:
    database = await opened(tmp_path / "n.db")
    with pytest.raises(StoreError):
        await database.read(insert("sneaky"))
    await closed(database)


async def test_steps_that_are_new_are_done_once(tmp_path: Path) -> None:
    database = await opened(tmp_path / "n.db")
    await database.write(insert("old"))
    await closed(database)
    for _ in range(2):
        database = await opened(tmp_path / "n.db", BOTH)
        rows = await database.read(lambda c: c.execute("SELECT text, author FROM notes").fetchall())
        assert rows == [("old", None)]
        await closed(database)


def test_a_schema_that_is_current_does_nothing(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "n.db")
    assert BOTH.apply(connection, tmp_path / "n.db") == 2
    assert BOTH.apply(connection, tmp_path / "n.db") == 0
    assert FIRST.apply(connection, tmp_path / "n.db") == 0  # an older program on a newer file
    connection.close()


async def test_a_step_that_fails_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    database = await opened(tmp_path / "n.db")
    await database.write(insert("old"))
    await closed(database)
    with pytest.raises(StoreError, match="no such table: missing"):
        await opened(tmp_path / "n.db", BROKEN)
    database = await opened(tmp_path / "n.db")
    assert await texts(database) == ["old"]
    await closed(database)


async def test_freed_pages_can_be_given_back(tmp_path: Path) -> None:
    database = await opened(tmp_path / "n.db")
    assert await database.read(lambda c: c.execute("PRAGMA auto_vacuum").fetchone()) == (2,)
    await closed(database)


async def test_what_outlives_a_kill_is_asked_of_sqlite(tmp_path: Path) -> None:
    """A kill alone does not tell: the system still writes what a process had handed over."""
    database = await opened(tmp_path / "n.db")
    await database.write(insert("noted"))
    for ask in (database.write, database.read):
        settings = [
            (await ask(lambda c, name=name: c.execute(f"PRAGMA {name}").fetchone()))[0]  # type: ignore[misc]
            for name in ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint")
        ]
        assert settings == ["wal", 1, 1, 1000]  # 1: NORMAL, 1: on
    assert (tmp_path / "n.db-wal").stat().st_size > 0
    await closed(database)
    database = await opened(tmp_path / "n.db")
    assert await database.write(lambda c: c.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    await closed(database)


async def test_a_full_disk_has_its_name(tmp_path: Path) -> None:
    database = await opened(tmp_path / "n.db")
    await database.write(lambda c: c.execute("PRAGMA max_page_count = 12").fetchall())
    with pytest.raises(StoreError) as caught:
        await database.write(insert("x" * 100_000))
    assert caught.value.fault == "full"
    await database.write(insert("small"))
    assert await texts(database) == ["small"]
    await closed(database)


async def test_a_file_that_is_no_database_and_one_that_is_closed_have_theirs(
    tmp_path: Path,
) -> None:
    (tmp_path / "n.db").write_bytes(b"not a database at all, though long enough" * 100)
    with pytest.raises(StoreError) as caught:
        await opened(tmp_path / "n.db")
    assert caught.value.fault == "corrupt"
    database = await opened(tmp_path / "good.db")
    await closed(database)
    await closed(database)
    with pytest.raises(StoreError) as caught:
        await database.read(lambda c: c)
    assert caught.value.fault == "closed"


def modes_in(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.glob("n.db*")}


async def test_only_its_user_reads_the_file(tmp_path: Path) -> None:
    database = await opened(tmp_path / "n.db")
    await database.write(insert("private"))
    modes = await asyncio.to_thread(modes_in, tmp_path)
    assert set(modes) == {"n.db", "n.db-wal", "n.db-shm"}
    assert set(modes.values()) == {0o600}
    await closed(database)
