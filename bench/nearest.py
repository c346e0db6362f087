#!/usr/bin/env python3
"""Finding the nearest question: as hearthd does it, against NumPy and sqlite-vec where they are installed.

Random directions, and what is looked for is one of them with noise. hearthd's way has signs of all
candidates in memory, and reads the vectors of a few from its database and multiplies them out; NumPy has
all vectors in memory; sqlite-vec has them in a table of its own. "found" is how often the true nearest was.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

from hearthd.cache.neighbours import Neighbours
from hearthd.cache.tables import SCHEMA
from hearthd.cache.vectors import signs, unit

DIM = 384
_CONTEXT = b"c" * 32

Find: TypeAlias = "Callable[[array[float]], int]"


def main(argv: list[str] | None = None) -> int:
    """Measure each way with each number of questions, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, nargs="+", default=[1000, 5000, 10_000])
    parser.add_argument("--lookups", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.3, help="0.3: a cosine of about 0.96")
    given = parser.parse_args(argv)
    print(f"{'questions':>10} {'way':<12}{'p50 ms':>8}{'p99 ms':>8}{'found':>8}")
    for n in given.questions:
        rng = Random(n)
        vectors = [_direction(rng) for _ in range(n)]
        wanted = [
            (i, _near(rng, vectors[i], given.noise))
            for i in (rng.randrange(n) for _ in range(given.lookups))
        ]
        with tempfile.TemporaryDirectory() as folder:
            for way in (_hearthd, _numpy, _sqlite_vec):
                try:
                    find = way(Path(folder), vectors)
                except ImportError as error:
                    print(f"{n:>10} {way.__name__[1:]:<12} not here: {error.name}")
                    continue
                seconds, n_found = _measure(find, wanted)
                print(
                    f"{n:>10} {way.__name__[1:]:<12}{statistics.median(seconds) * 1000:>8.2f}"
                    f"{statistics.quantiles(seconds, n=100)[98] * 1000:>8.2f}{n_found / len(wanted):>8.0%}"
                )
    return 0


def _measure(find: Find, wanted: list[tuple[int, array[float]]]) -> tuple[list[float], int]:
    seconds, n_found = [], 0
    find(wanted[0][1])
    for number, vector in wanted:
        began = time.perf_counter()
        found = find(vector)
        seconds.append(time.perf_counter() - began)
        n_found += found == number
    return seconds, n_found


# --- ways --------------------------------------------------------------------------------------


def _hearthd(folder: Path, vectors: list[array[float]]) -> Find:
    file = folder / "cache.db"
    SCHEMA.migrate(file)
    connection = sqlite3.connect(file, isolation_level=None)
    connection.executescript("PRAGMA journal_mode = WAL; PRAGMA cache_size = -4096; BEGIN")
    connection.execute(
        "INSERT INTO scopes (id, partition, model, digest) VALUES (1, 'p', 'm', 'd')"
    )
    for i, vector in enumerate(vectors):
        connection.execute(
            "INSERT INTO answers (id, key, scope, created, used, cost_seconds, n_prompt, n_output, n_bytes,"
            " question, body) VALUES (?, ?, 1, 0, 0, 1, 1, 1, 700, '', randomblob(360))",
            (i + 1, i.to_bytes(32)),
        )
        connection.execute(
            "INSERT INTO questions (context, answer, question, signs, vector) VALUES (?, ?, 'q', ?, ?)",
            (_CONTEXT, i + 1, signs(vector), vector.tobytes()),
        )
    connection.execute("COMMIT")
    neighbours = Neighbours()

    def find(vector: array[float]) -> int:
        found = neighbours.nearest(connection, _CONTEXT, vector, b"")
        return -1 if found is None else int.from_bytes(found.entry.key)

    return find


def _numpy(folder: Path, vectors: list[array[float]]) -> Find:
    import numpy as np

    matrix = np.array(vectors, np.float32)
    return lambda vector: int((matrix @ np.frombuffer(vector, np.float32)).argmax())


def _sqlite_vec(folder: Path, vectors: list[array[float]]) -> Find:
    import sqlite_vec  # type: ignore[import-not-found, unused-ignore]  # only for this bench, in an environment of its own

    connection: Any = sqlite3.connect(folder / "vec.db", isolation_level=None)
    if not hasattr(connection, "enable_load_extension"):
        raise ImportError("this Python loads no extensions", name="loadable extensions")
    connection.enable_load_extension(True)
    sqlite_vec.load(connection)
    connection.execute(
        f"CREATE VIRTUAL TABLE q USING vec0(context TEXT PARTITION KEY, v FLOAT[{DIM}])"
    )
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO q (rowid, context, v) VALUES (?, 'c', ?)",
        ((i, vector.tobytes()) for i, vector in enumerate(vectors)),
    )
    connection.execute("COMMIT")

    def find(vector: array[float]) -> int:
        (number,) = connection.execute(
            "SELECT rowid FROM q WHERE context = 'c' AND v MATCH ? AND k = 1", (vector.tobytes(),)
        ).fetchone()
        return int(number)

    return find


# --- directions --------------------------------------------------------------------------------


def _direction(rng: Random) -> array[float]:
    return unit(array("f", [rng.gauss(0, 1) for _ in range(DIM)]).tobytes())


def _near(rng: Random, vector: array[float], noise: float) -> array[float]:
    step = noise / DIM**0.5
    return unit(array("f", [value + rng.gauss(0, step) for value in vector]).tobytes())


if __name__ == "__main__":
    sys.exit(main())
