"""Kill -9 in the middle of writing: what was kept is there, and nothing that is found is damaged."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import cache_writer
import pytest
from cache_writer import answer, exact_cache, fingerprint_of
from hearthd_process import running

from hearthd.cache.tables import SCHEMA


def killed_while_writing(file: Path, first: int, seconds: float) -> list[int]:
    """Numbers of the answers that a process had kept before it was killed."""
    with subprocess.Popen(
        [sys.executable, cache_writer.__file__, str(file), str(first)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        begun = process.stdout.readline()  # it writes now
        time.sleep(seconds)
        process.kill()
        rest = process.stdout.read()
    whole, _, _ = (begun + rest).rpartition(b"\n")
    return [int(line) for line in whole.splitlines()]


async def check(file: Path, kept: list[int], highest: int) -> int:
    """Every answer that is found is the right one, and the last that were kept are found; how many."""
    cache = exact_cache(file)
    await cache.open()
    n_found = 0
    for number in range(highest + 1):
        found = await cache.find(fingerprint_of(number))
        if found is not None:
            n_found += 1
            assert found[1] == answer(number)
    for number in kept[-8:]:
        assert await cache.find(fingerprint_of(number)) is not None
    assert cache._counts.faults == {}
    await cache.close()
    return n_found


def whole(file: Path) -> bool:
    """SQLite's own opinion, and that of the sums; and whether it has been written with a journal (WAL)."""
    with file.open("rb") as head:
        versions = head.read(20)[18:]  # that one must know to write it and to read it
    connection = sqlite3.connect(file)
    try:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        sums = connection.execute("SELECT sum(n_answers), sum(n_bytes) FROM scopes").fetchone()
        counted = connection.execute("SELECT count(*), sum(n_bytes) FROM answers").fetchone()
    finally:
        connection.close()
    return bool(verdict == "ok" and sums == counted and versions == b"\x02\x02")


def run(tmp_path: Path, n_kills: int) -> None:
    file, rng, first, n_found = tmp_path / "cache.db", random.Random(n_kills), 0, 0
    SCHEMA.migrate(file)
    for _ in range(n_kills):
        kept = killed_while_writing(file, first, rng.random() * 0.15)
        assert kept
        highest = max(kept) + 8  # some may be kept whose number was not printed any more
        n_found += asyncio.run(check(file, kept, highest))
        assert whole(file)
        first = highest + 1
    assert n_found > n_kills


def test_killed_three_times(tmp_path: Path) -> None:
    run(tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_fifty_times(tmp_path: Path) -> None:
    run(tmp_path, 50)


def test_a_daemon_that_was_killed_still_knows_what_it_said(short_path: Path) -> None:
    body = {"model": "m", "prompt": "copy: abc\n", "max_tokens": 8, "temperature": 0}
    answers = []
    for expected in (1, 0):
        with running(short_path, "--set", "models.m.path=canary") as daemon:
            daemon.until_ready()
            status, text = daemon.get("/v1/completions", body)
            assert status == 200
            answers.append(text)
            computed = f'hearth_cache_requests_total{{model="m",result="MISS"}} {expected}.0'
            daemon.until(lambda: stored(short_path) == 1)
            assert (computed in metrics(daemon.address())) == bool(expected)
            daemon.process.kill()
            daemon.process.wait()
    assert answers[0]["id"] == answers[1]["id"]
    assert answers[0]["choices"] == answers[1]["choices"]


def stored(folder: Path) -> int:
    connection = sqlite3.connect(folder / "state" / "cache.db")
    try:
        n, *_ = connection.execute("SELECT count(*) FROM answers").fetchone()
    finally:
        connection.close()
    return int(n)


def metrics(address: str) -> str:
    with urlopen(f"http://{address}/metrics") as response:
        return str(response.read().decode())
