"""The most frequent answers, and those that spared most time: each once, however many there are."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hearthd.cache import answers
from hearthd.cache.entry import Entry
from hearthd.cache.exact import _top
from hearthd.cache.fingerprint import KEY_BYTES, Scope
from hearthd.cache.tables import SCHEMA
from hearthd.store.database import Database

SCOPE = Scope("ann", "canary", "digest")


def entry(number: int, cost_seconds: float) -> Entry:
    key = number.to_bytes(KEY_BYTES, "big")
    return Entry(key, SCOPE, 1.0, cost_seconds, 5, 3, f"question {number}", b"body")


async def test_one_that_is_rare_but_dear_is_among_them(tmp_path: Path) -> None:
    database = await asyncio.to_thread(Database.open, tmp_path / "cache.db", SCHEMA)
    try:
        entries = [entry(number, 0.1) for number in range(15)] + [
            entry(99, 1000.0),
            entry(100, 1.0),
        ]
        hits = {one.key: (20 + number, 2.0) for number, one in enumerate(entries[:15])}
        hits[entries[15].key] = (1, 2.0)  # and the last one was never asked for again

        def fill(connection: answers.Connection) -> None:
            for one in entries:
                answers.put(connection, one, 1 << 30, lambda _: 0)
            answers.touch(connection, hits)

        await database.write(fill)
        top = await database.read(_top)
    finally:
        await asyncio.to_thread(database.close)
    assert [one.question for one in top[:3]] == ["question 14", "question 13", "question 12"]
    assert "question 99" in {one.question for one in top}
    assert "question 100" not in {one.question for one in top}
    assert len(top) == len({one.key for one in top}) == 11
