"""Neighbours: the questions of one context among which the nearest is found; signs of large contexts stay in memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hearthd.cache import answers
from hearthd.cache.entry import Entry
from hearthd.cache.fingerprint import Scope
from hearthd.cache.vectors import cosine, nearest_signs, signs

MOST_CANDIDATES: Final = 10_000
"""Questions compared, the latest: so many take a millisecond or two (bench/nearest.py)."""
LARGE: Final = 256
"""Questions of a context from which on its signs are kept; fewer are read as fast as found."""
_MOST_KEPT: Final = 50_000  # signs, of some 200 bytes, of all contexts together


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The nearest question that was answered before."""

    entry: Entry
    question: str
    similarity: float


class Neighbours:
    """Belongs to the database's reading thread, in which all of it is called.

    What is kept only says where to look: every row is read from the database, of the context that was
    asked for and no other, whatever has gone or come since.
    """

    def __init__(self) -> None:
        # Signs by number of the answer, oldest first; the context used last is the last.
        self._kept: dict[bytes, dict[int, int]] = {}

    def nearest(
        self, connection: answers.Connection, context: bytes, vector: array[float], not_key: bytes
    ) -> Neighbour | None:
        """The nearest question of a context, but for that of one answer; None where there is none."""
        while True:
            is_kept = context in self._kept
            few = nearest_signs(signs(vector), self._candidates(connection, context))
            rows = _rows(connection, context, few)
            if len(rows) == len(few) or not is_kept:
                break
            del self._kept[context]  # some answers have gone: what is left is read again
        alike = [
            (cosine(vector, array("f", values)), key, question, Scope(*scope))
            for values, question, key, *scope in rows
            if key != not_key
        ]
        if not alike:
            return None
        similarity, key, question, scope = max(alike, key=lambda one: one[0])
        entry = answers.find(connection, key, scope)
        return None if entry is None else Neighbour(entry, question, similarity)

    def learn(self, connection: answers.Connection, context: bytes, key: bytes) -> None:
        """The question of an answer has been written: from now on it is found."""
        kept = self._kept.get(context)
        if kept is None:
            return
        for number, bits in connection.execute(
            "SELECT q.answer, q.signs FROM questions q JOIN answers a ON a.id = q.answer"
            " WHERE a.key = ? AND q.context = ?",
            (key, context),
        ):
            kept[number] = int.from_bytes(bits)
        while len(kept) > MOST_CANDIDATES:
            del kept[next(iter(kept))]

    def _candidates(self, connection: answers.Connection, context: bytes) -> Mapping[int, int]:
        found = self._kept.pop(context, None)
        if found is None:
            rows = connection.execute(
                "SELECT answer, signs FROM questions WHERE context = ? ORDER BY answer DESC LIMIT ?",
                (context, MOST_CANDIDATES),
            ).fetchall()
            found = {number: int.from_bytes(bits) for number, bits in reversed(rows)}
            self._make_room(len(found))
        if len(found) >= LARGE:
            self._kept[context] = found
        return found

    def _make_room(self, n: int) -> None:
        n_kept = sum(map(len, self._kept.values()))
        while n_kept + n > _MOST_KEPT:
            n_kept -= len(self._kept.pop(next(iter(self._kept))))


def _rows(
    connection: answers.Connection, context: bytes, numbers: list[int]
) -> list[tuple[bytes, str, bytes, str, str, str]]:
    """Vector, question, and key and scope of its answer; of those that are still there, in one reading."""
    return connection.execute(
        "SELECT q.vector, q.question, a.key, s.partition, s.model, s.digest FROM questions q"
        " JOIN answers a ON a.id = q.answer JOIN scopes s ON s.id = a.scope"
        " WHERE q.context = ? AND q.answer IN (SELECT value FROM json_each(?))",
        (context, json.dumps(numbers)),
    ).fetchall()
