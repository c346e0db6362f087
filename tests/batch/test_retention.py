"""What has been kept long enough goes: files, then the batches whose answers they were; settings count while it runs."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from batch_rig import WAIT_SECONDS, Gate, batch_server, line, lines, make_batches, submit, until
from fake_serving import FakeServing
from openai import APIStatusError, AsyncOpenAI, NotFoundError

from hearthd.batch.tables import SCHEMA, m001_batches
from hearthd.config.schema import BatchConfig
from hearthd.store.schema import Schema

HOUR = 3600.0
KEEP = BatchConfig(reserve=0, keep_seconds=2 * HOUR)
KEPT_AN_HOUR: Any = {"anchor": "created_at", "seconds": int(HOUR)}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hearthd.batch.housekeeping.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("hearthd.batch.housekeeping._AT_ONCE", 2)


class Clock:
    """Unix time, as a test wants it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def gone(ask: Callable[[], Any]) -> None:
    """Wait until there is no such thing any more."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                await ask()
            except NotFoundError:
                return
            await asyncio.sleep(0.01)


async def kept(client: AsyncOpenAI) -> tuple[set[str], set[str]]:
    """Ids of the files and of the batches."""
    files = {file.id async for file in client.files.list()}
    return files, {batch.id async for batch in client.batches.list()}


async def test_answers_go_first_and_their_batch_with_the_last_of_them(tmp_path: Path) -> None:
    clock = Clock()
    async with batch_server(tmp_path, FakeServing(), config=KEEP, clock=clock) as (_, client):
        short = await submit(client, lines(line("a"), b"{"), output_expires_after=KEPT_AN_HOUR)
        plain = [await submit(client, lines(line("a"))) for _ in range(5)]
        short = await until(client, short, "completed")
        plain = [await until(client, batch, "completed") for batch in plain]
        clock.now += 1.5 * HOUR
        await gone(lambda: client.files.content(str(short.output_file_id)))
        await gone(lambda: client.files.content(str(short.error_file_id)))
        files, batches = await kept(client)
        assert {str(batch.output_file_id) for batch in plain} <= files
        assert batches == {batch.id for batch in (short, *plain)}
        clock.now += HOUR
        await gone(lambda: client.batches.retrieve(short.id))
        for batch in plain:
            await gone(partial(client.batches.retrieve, batch.id))
        assert await kept(client) == (set(), set())
    assert list((tmp_path / "files").iterdir()) == []


async def test_a_batch_stays_as_long_as_its_answers(tmp_path: Path) -> None:
    clock = Clock()
    config = BatchConfig(reserve=0, keep_seconds=HOUR / 2)
    async with batch_server(tmp_path, FakeServing(), config=config, clock=clock) as (_, client):
        batch = await submit(client, lines(line("a")), output_expires_after=KEPT_AN_HOUR)
        batch = await until(client, batch, "completed")
        clock.now += 0.75 * HOUR
        await gone(lambda: client.files.retrieve(batch.input_file_id))
        assert (await client.batches.retrieve(batch.id)).output_file_id == batch.output_file_id
        assert (await client.files.content(str(batch.output_file_id))).content
        clock.now += 0.75 * HOUR
        await gone(lambda: client.batches.retrieve(batch.id))


async def test_what_a_batch_still_needs_stays(tmp_path: Path) -> None:
    clock, gate = Clock(), Gate(0)
    serving = FakeServing(gate.script)
    async with batch_server(tmp_path, serving, config=KEEP, clock=clock) as (_, client):
        old = await client.files.create(file=("old.jsonl", b"x"), purpose="batch")
        batch = await submit(client, lines(line("a")), window="30d")
        await until(client, batch, "in_progress")
        clock.now += 3 * HOUR
        await gone(lambda: client.files.retrieve(old.id))
        assert (tmp_path / "files" / batch.input_file_id).exists()
        assert (await client.batches.retrieve(batch.id)).status == "in_progress"
        gate.open()
        await until(client, batch, "completed")


async def test_settings_count_while_it_runs(tmp_path: Path) -> None:
    clock, serving = Clock(), FakeServing()
    batches = make_batches(tmp_path, serving, config=KEEP, clock=clock)
    async with ApiServer(serving, batches=batches) as server, server.openai() as client:

        async def refused(content: bytes) -> str | None:
            with pytest.raises(APIStatusError) as error:
                await client.files.create(file=("in.jsonl", content), purpose="batch")
            return error.value.code

        first = await submit(client, lines(line("a"), line("b")))
        first = await until(client, first, "completed")
        batches.configure(BatchConfig(reserve=0, lines=1, file=1000, keep_seconds=HOUR))
        assert await refused(b"x" * 1001) == "body_too_large"
        assert (
            await until(client, await submit(client, lines(line("a"), line("b"))), "failed")
        ).errors
        batches.configure(BatchConfig(reserve=0, budget=10))
        assert await refused(b"x" * 11) == "insufficient_storage"
        batches.configure(BatchConfig(reserve=1 << 60))
        assert await refused(b"x") == "insufficient_storage"
        batches.configure(BatchConfig(reserve=0, keep_seconds=HOUR))
        file = await client.files.create(file=("in.jsonl", b"x"), purpose="batch")
        assert file.expires_at == file.created_at + HOUR
        output = await client.files.retrieve(str(first.output_file_id))
        assert output.expires_at == output.created_at + 2 * HOUR  # as it was told


def test_batches_of_an_older_version_have_their_end(tmp_path: Path) -> None:
    path = tmp_path / "batches.db"
    Schema("batch", (m001_batches,), "").migrate(path)
    records = [{"completed": 5.0}, {"cancelling": 3.0, "cancelled": 4.0}, {"in_progress": 2.0}]
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO batches (id, owner, status, input_file, is_over, record)"
            " VALUES (?, 'o', 's', 'f', ?, ?)",
            [(str(i), "in_progress" not in r, json.dumps(r)) for i, r in enumerate(records)],
        )
    SCHEMA.migrate(path)
    found = connection.execute("SELECT ended FROM batches ORDER BY number").fetchall()
    connection.close()
    assert found == [(5.0,), (4.0,), (None,)]
