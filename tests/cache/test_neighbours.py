"""Nearest questions: of their context only, however answers come, go, and take each other's numbers."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from hearthd.cache import neighbours
from hearthd.cache.neighbours import LARGE, Neighbours
from hearthd.cache.tables import SCHEMA
from hearthd.cache.vectors import nearest_signs, signs, unit

OURS, THEIRS = b"o" * 32, b"t" * 32
DIM = 32


def direction(number: int) -> array[float]:
    rng = Random(number)
    return unit(array("f", [rng.gauss(0, 1) for _ in range(DIM)]).tobytes())


class Questions:
    """A database of questions whose vectors are `direction(number)`, and Neighbours that reads it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.neighbours = Neighbours()
        self.n_statements = 0
        connection.set_trace_callback(self._count)

    def add(self, number: int, context: bytes = OURS) -> None:
        """As `put` and `learn` do it; the number is the answer's."""
        self.connection.execute(
            "INSERT INTO answers (id, key, scope, created, used, cost_seconds, n_prompt, n_output, n_bytes,"
            " question, body) VALUES (?, ?, ?, 0, 0, 1, 1, 1, 700, '', x'00')",
            (number, context[:1] + number.to_bytes(31), 1 if context == OURS else 2),
        )
        vector = direction(number)
        self.connection.execute(
            "INSERT INTO questions (context, answer, question, signs, vector) VALUES (?, ?, ?, ?, ?)",
            (context, number, f"{number}", signs(vector), vector.tobytes()),
        )
        self.neighbours.learn(self.connection, context, context[:1] + number.to_bytes(31))

    def drop(self, number: int) -> None:
        self.connection.execute("DELETE FROM answers WHERE id = ?", (number,))

    def nearest(self, number: int, context: bytes = OURS, not_key: bytes = b"") -> str | None:
        found = self.neighbours.nearest(self.connection, context, direction(number), not_key)
        return None if found is None else found.question

    def _count(self, _statement: str) -> None:
        self.n_statements += 1


@pytest.fixture
def questions(tmp_path: Path) -> Iterator[Questions]:
    SCHEMA.migrate(tmp_path / "cache.db")
    with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA foreign_keys = ON")
        for number, partition in ((1, "ours"), (2, "theirs")):
            connection.execute(
                "INSERT INTO scopes (id, partition, model, digest) VALUES (?, ?, 'm', 'd')",
                (number, partition),
            )
        connection.execute("BEGIN")
        yield Questions(connection)


SIZES = pytest.mark.parametrize("n", [40, LARGE + 40], ids=["read", "kept"])


@SIZES
def test_each_is_nearest_to_itself_as_they_come_and_go(questions: Questions, n: int) -> None:
    for number in range(1, n):
        questions.add(number)
    assert [questions.nearest(number) for number in range(1, n)] == [f"{i}" for i in range(1, n)]
    questions.add(n)
    assert questions.nearest(n) == f"{n}"
    assert questions.nearest(n, not_key=OURS[:1] + n.to_bytes(31)) != f"{n}"
    for number in range(3, n + 1):  # all of the nearest but two, and the rest of what is in memory
        questions.drop(number)
    assert [questions.nearest(number) for number in (1, 2)] == ["1", "2"]
    assert questions.nearest(n) in ("1", "2")
    for number in (1, 2):
        questions.drop(number)
    assert questions.nearest(1) is None


@SIZES
def test_a_number_that_another_context_has_taken_is_not_found(questions: Questions, n: int) -> None:
    for number in range(1, n):
        questions.add(number)
    assert questions.nearest(7) == "7"
    questions.drop(7)
    questions.add(7, THEIRS)
    assert questions.nearest(7) not in ("7", None)
    assert questions.nearest(7, THEIRS) == "7"
    assert questions.nearest(8, THEIRS) == "7"


@pytest.mark.parametrize(
    "loses",
    [lambda q: q.drop(7), lambda q: (q.drop(7), q.add(7, THEIRS))],
    ids=["gone", "taken by others"],
)
def test_what_goes_while_it_is_looked_for_is_not_found(
    questions: Questions, monkeypatch: pytest.MonkeyPatch, loses: Callable[[Questions], object]
) -> None:
    """Between the reading of signs and that of vectors others write."""
    for number in range(1, 40):
        questions.add(number)

    def meanwhile(wanted: bytes, candidates: dict[int, int]) -> list[int]:
        few = nearest_signs(wanted, candidates)
        loses(questions)
        return few

    monkeypatch.setattr("hearthd.cache.neighbours.nearest_signs", meanwhile)
    assert questions.nearest(7) not in ("7", None)


def test_a_large_context_is_read_once(questions: Questions) -> None:
    for number in range(1, LARGE + 10):
        questions.add(number)
    counted = []
    for number in (1, 2, 3):
        questions.n_statements = 0
        assert questions.nearest(number) == f"{number}"
        counted.append(questions.n_statements)
    assert counted[0] > counted[1] == counted[2]


def test_only_the_latest_are_compared_and_only_so_many_are_kept(
    questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "MOST_CANDIDATES", LARGE + 10)
    monkeypatch.setattr(neighbours, "_MOST_KEPT", LARGE + 100)
    for number in range(1, LARGE + 21):
        questions.add(number)
    assert questions.nearest(10) != "10"
    assert questions.nearest(11) == "11"
    questions.add(1000)
    assert questions.nearest(11) != "11"  # it had to go for a later one
    assert questions.nearest(1000) == "1000"
    for number in range(2000, 2000 + LARGE):
        questions.add(number, THEIRS)
    assert questions.nearest(2000, THEIRS) == "2000"
    assert list(questions.neighbours._kept) == [THEIRS]
    assert questions.nearest(1000) == "1000"
    assert list(questions.neighbours._kept) == [OURS]
