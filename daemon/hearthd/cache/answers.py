"""Answers: what is asked of the cache's database, as functions of a connection; all of them block."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hearthd.cache.entry import Entry, Listed, ScopeSum
from hearthd.cache.eviction import Candidate, choose_victims
from hearthd.cache.fingerprint import KEY_BYTES, Scope

Connection: TypeAlias = sqlite3.Connection
Order: TypeAlias = Literal["hits", "saved", "recent"]

_ORDERS: Final[Mapping[Order, str]] = {
    "hits": "AND hits > 0 ORDER BY hits DESC",
    "saved": "AND hits > 0 ORDER BY hits * cost_seconds DESC",
    "recent": "ORDER BY used DESC",
}
_SELECTED: Final = (
    "FROM answers a JOIN scopes s ON s.id = a.scope"
    " WHERE a.key BETWEEN :first AND :last"
    " AND (:partition IS NULL OR s.partition = :partition)"
    " AND (:model IS NULL OR s.model = :model)"
    " AND (:not_digest IS NULL OR s.digest <> :not_digest)"
)
_COLDEST: Final = 64  # looked at, at least, for each answer that comes when all is full
_BATCH: Final = 500  # rows of one transaction that deletes many


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers: all that agree with what is given."""

    partition: str | None = None
    model: str | None = None
    key: str | None = None  # hexadecimal: the first bytes of it
    not_digest: str | None = None

    def selects(self, key: bytes, scope: Scope) -> bool:
        """Whether an answer is one of them."""
        return (
            self.partition in (None, scope.partition)
            and self.model in (None, scope.model)
            and self.not_digest != scope.digest
            and key.hex().startswith((self.key or "").lower())
        )

    def values(self, **more: object) -> dict[str, object]:
        """For a statement that has `_SELECTED`; raises ValueError for a key that is not hexadecimal."""
        first = bytes.fromhex((self.key or "")[: len(self.key or "") // 2 * 2])
        return {
            "first": first,
            "last": first.ljust(KEY_BYTES, b"\xff"),
            "partition": self.partition,
            "model": self.model,
            "not_digest": self.not_digest,
            **more,
        }


@dataclass(frozen=True, slots=True)
class Put:
    """What became of an answer that was to be kept."""

    kept: bool
    n_evicted: int
    n_answers: int  # that there are now
    n_bytes: int


def find(connection: Connection, key: bytes, scope: Scope) -> Entry | None:
    """The answer of a fingerprint, from its scope only."""
    row = connection.execute(
        "SELECT a.created, a.cost_seconds, a.n_prompt, a.n_output, a.question, a.body"
        " FROM answers a JOIN scopes s ON s.id = a.scope"
        " WHERE a.key = ? AND s.partition = ? AND s.model = ? AND s.digest = ?",
        (key, scope.partition, scope.model, scope.digest),
    ).fetchone()
    return None if row is None else Entry(key, scope, *row)


def put(
    connection: Connection,
    entry: Entry,
    budget_bytes: int,
    frequency: Callable[[bytes], int],
) -> Put:
    """Keep an answer in place of an older one; within the budget, others go for it or it is not kept."""
    connection.execute("DELETE FROM answers WHERE key = ?", (entry.key,))
    excess = sum_of(connection)[1] + entry.n_bytes - budget_bytes
    n_evicted = 0
    if excess > 0:
        coldest = _coldest(connection, excess, frequency)
        victims = choose_victims(coldest, excess, frequency(entry.key))
        if victims is None:
            return Put(False, 0, *sum_of(connection))
        _delete(connection, [victim.id for victim in victims])
        n_evicted = len(victims)
    connection.execute(
        "INSERT INTO answers (key, scope, created, used, cost_seconds, n_prompt, n_output, n_bytes,"
        " question, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            entry.key,
            _scope_id(connection, entry.scope),
            entry.created,
            entry.created,
            entry.cost_seconds,
            entry.n_prompt,
            entry.n_output,
            entry.n_bytes,
            entry.question,
            entry.body,
        ),
    )
    return Put(True, n_evicted, *sum_of(connection))


def touch(connection: Connection, hits: Mapping[bytes, tuple[int, float]]) -> None:
    """Count hits: how many of each key, and when the last was."""
    connection.executemany(
        "UPDATE answers SET hits = hits + ?, used = ? WHERE key = ?",
        [(n, used, key) for key, (n, used) in hits.items()],
    )


def drop(connection: Connection, which: Selection) -> int:
    """Delete some of the answers that are selected; how many. 0: there is none left."""
    rows = connection.execute(
        f"SELECT a.id {_SELECTED} LIMIT :limit",
        which.values(limit=_BATCH),
    ).fetchall()
    _delete(connection, [number for (number,) in rows])
    connection.execute(f"PRAGMA incremental_vacuum({_BATCH})").fetchall()
    return len(rows)


def trim(connection: Connection, budget_bytes: int) -> int:
    """Delete some of the coldest answers where all together are over the budget; how many."""
    excess = sum_of(connection)[1] - budget_bytes
    numbers: list[int] = []
    for number, n_bytes in connection.execute("SELECT id, n_bytes FROM answers ORDER BY used"):
        if excess <= 0 or len(numbers) == _BATCH:
            break
        numbers.append(number)
        excess -= n_bytes
    _delete(connection, numbers)
    return len(numbers)


def expire(connection: Connection, model: str, before: float) -> int:
    """Delete some of the oldest answers of a model where they are too old; how many."""
    numbers: list[int] = []
    for (scope,) in connection.execute(
        "SELECT id FROM scopes WHERE model = ?", (model,)
    ).fetchall():
        oldest = connection.execute(
            "SELECT id, created FROM answers WHERE scope = ? ORDER BY id LIMIT ?", (scope, _BATCH)
        )
        numbers += [number for number, created in oldest if created < before]
    _delete(connection, numbers)
    return len(numbers)


def sum_of(connection: Connection) -> tuple[int, int]:
    """Number and bytes of all answers."""
    row = connection.execute(
        "SELECT coalesce(sum(n_answers), 0), coalesce(sum(n_bytes), 0) FROM scopes"
    ).fetchone()
    return int(row[0]), int(row[1])


def scopes(connection: Connection, partition: str | None = None) -> list[ScopeSum]:
    """What each scope holds, the largest first."""
    rows = connection.execute(
        "SELECT partition, model, digest, n_answers, n_bytes FROM scopes"
        " WHERE n_answers > 0 AND (? IS NULL OR partition = ?) ORDER BY n_bytes DESC",
        (partition, partition),
    )
    return [ScopeSum(*row) for row in rows]


def listed(connection: Connection, which: Selection, order: Order, limit: int) -> list[Listed]:
    """The first answers in an order; by hits and time saved, only those that had a hit."""
    rows = connection.execute(
        "SELECT a.key, s.partition, s.model, s.digest, a.question, a.created, a.used, a.hits,"
        " a.hits * a.cost_seconds, a.cost_seconds, a.n_prompt, a.n_output, a.n_bytes"
        # Without a key the order has the index: by keys, all answers would be read and sorted.
        f" {_SELECTED if which.key else _SELECTED.replace('a.key', '+a.key')} {_ORDERS[order]} LIMIT :limit",
        which.values(limit=limit),
    )
    return [Listed(key.hex(), *rest) for key, *rest in rows]


def page(
    connection: Connection, which: Selection, after: int, limit: int
) -> tuple[int, list[Entry]]:
    """Entries in the order they came, after a number; and the number to go on from (0: the end)."""
    rows = connection.execute(
        "SELECT a.id, a.key, s.partition, s.model, s.digest, a.created, a.cost_seconds, a.n_prompt,"
        f" a.n_output, a.question, a.body {_SELECTED} AND a.id > :after ORDER BY a.id LIMIT :limit",
        which.values(after=after, limit=limit),
    ).fetchall()
    entries = [Entry(row[1], Scope(*row[2:5]), *row[5:]) for row in rows]
    return (rows[-1][0] if len(rows) == limit else 0), entries


def beginnings(
    connection: Connection, after: bytes, limit: int, n_bytes: int
) -> tuple[bytes, bytes]:
    """Keys in order, after one: their first bytes, and the last key (nothing: the end)."""
    rows = connection.execute(
        "SELECT key FROM answers WHERE key > ? ORDER BY key LIMIT ?", (after, limit)
    ).fetchall()
    read = b"".join([key[:n_bytes] for (key,) in rows])
    return read, rows[-1][0] if len(rows) == limit else b""


# --- parts -------------------------------------------------------------------------------------


def _coldest(
    connection: Connection, needed_bytes: int, frequency: Callable[[bytes], int]
) -> list[Candidate]:
    """The least recently used: so many that they would do, and some more to choose among."""
    coldest: list[Candidate] = []
    n_bytes = 0
    for number, key, size in connection.execute(
        "SELECT id, key, n_bytes FROM answers ORDER BY used"
    ):
        coldest.append(Candidate(number, size, frequency(key)))
        n_bytes += size
        if len(coldest) >= _COLDEST and n_bytes >= 2 * needed_bytes:
            break
    return coldest


def _scope_id(connection: Connection, scope: Scope) -> int:
    values = (scope.partition, scope.model, scope.digest)
    connection.execute(
        "INSERT OR IGNORE INTO scopes (partition, model, digest) VALUES (?, ?, ?)", values
    )
    row = connection.execute(
        "SELECT id FROM scopes WHERE partition = ? AND model = ? AND digest = ?", values
    ).fetchone()
    return int(row[0])


def _delete(connection: Connection, numbers: Iterable[int]) -> None:
    connection.executemany("DELETE FROM answers WHERE id = ?", [(number,) for number in numbers])
