"""What the cache knows without looking: it never says no of what is there, and looks for nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cached import Cached
from fake_serving import FakeServing
from hypothesis import given
from hypothesis import strategies as st

from hearthd.cache import answers, exact, known
from hearthd.cache.entry import Entry
from hearthd.cache.fingerprint import Scope
from hearthd.cache.known import BEGINNING, KnownKeys


def key_of(number: int) -> bytes:
    return hashlib.blake2b(number.to_bytes(4), digest_size=32).digest()


def read(keys: set[bytes]) -> bytes:
    return b"".join([key[:BEGINNING] for key in sorted(keys)])


@given(st.lists(st.tuples(st.sampled_from(["add", "begin", "end"]), st.integers(0, 30))))
def test_it_never_says_no_of_what_is_there(steps: list[tuple[str, int]]) -> None:
    """What is added is on disk at once, and seen by a reading that begins later."""
    keys, on_disk, seen = KnownKeys(), set[bytes](), None
    for what, number in steps:
        if what == "add":
            keys.add(key_of(number))
            on_disk.add(key_of(number))
        elif what == "begin":
            keys.begin()
            seen = set(on_disk)
        elif seen is not None:
            keys.end(read(seen))
            seen = None
        assert all(key in keys for key in on_disk)


def test_it_says_no_of_all_else_once_it_has_read() -> None:
    keys = KnownKeys()
    assert key_of(1) in keys
    keys.begin()
    keys.add(key_of(500))
    keys.end(read({key_of(i) for i in range(300)}))
    assert [i for i in range(600) if key_of(i) in keys] == [*range(300), 500]
    keys.begin()
    keys.end(b"")
    assert not any(key_of(i) in keys for i in range(600))


async def test_what_is_not_there_is_not_looked_for(
    serving: FakeServing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for: list[bytes] = []
    find = answers.find

    def noted(connection: answers.Connection, key: bytes, scope: Scope) -> Entry | None:
        looked_for.append(key)
        return find(connection, key, scope)

    monkeypatch.setattr(answers, "find", noted)
    monkeypatch.setattr(exact, "_KEYS", 3)
    async with Cached(serving, tmp_path).opened() as cached:
        for i in range(8):
            await cached.ask(f"{i}")
    async with Cached(serving, tmp_path).opened() as cached:
        await cached.exact.keys_read()
        looked_for.clear()
        assert await cached.ask("new") == ("MISS", "new-9")
        assert looked_for == []
        await cached.settled()
        assert [(await cached.ask(f"{i}"))[0] for i in range(8)] == ["HIT"] * 8
        assert await cached.ask("new") == ("HIT", "new-9")
        assert len(looked_for) == 9


async def test_keys_are_read_anew_when_many_have_come(
    cached: Cached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "MOST_NEW", 5)
    monkeypatch.setattr(exact, "TICK_SECONDS", 0.01)
    for i in range(12):
        await cached.ask(f"{i}")
        await cached.settled()
    assert [(await cached.ask(f"{i}"))[0] for i in range(12)] == ["HIT"] * 12
