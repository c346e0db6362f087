"""How batches end, wait and go on: cancelled, expired, revoked, refused for a while, a full disk, a restart."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_server import ApiServer
from batch_rig import Gate, batch_server, line, lines, make_batches, results, submit, until
from fake_serving import FakeServing
from openai import BadRequestError, NotFoundError

from hearthd import wire
from hearthd.batch.disk import Disk, DiskTrouble
from hearthd.config.schema import KeyConfig, KeyLimitsConfig
from hearthd.errors import EngineFailed, ModelFailed, Overloaded


def named(found: list[Any]) -> list[str]:
    return sorted(record["custom_id"] for record in found)


def counted(server: ApiServer, metric: str) -> bool:
    """Whether a counter is over 0."""
    return f"{metric} 0.0".encode() not in server.metrics.render()


MANY = lines(*(line(f"id-{i:03}") for i in range(200)))
NAMES = [f"id-{i:03}" for i in range(200)]


async def test_a_cancelled_batch_has_what_was_done(tmp_path: Path) -> None:
    gate = Gate(10)
    serving = FakeServing(gate.script)
    async with batch_server(tmp_path, serving) as (_, client):
        batch = await submit(client, MANY)
        batch = await until(client, batch, holds=lambda b: b.request_counts.completed == 10)  # type: ignore[union-attr]  # a batch here has counts
        asked = await client.batches.cancel(batch.id)
        assert asked.status == "cancelling"
        assert asked.cancelling_at is not None
        batch = await until(client, batch, "cancelled")
        good, bad = await results(client, batch)
        with pytest.raises(BadRequestError) as refused:
            await client.batches.cancel(batch.id)
    assert refused.value.code == "batch_not_cancellable"
    assert batch.cancelled_at is not None
    assert len(good) == 10
    assert {record["error"]["code"] for record in bad} == {"batch_cancelled"}
    assert named(good + bad) == NAMES
    assert len(serving.left) == len(serving.submits) - 10  # what was under way was left


async def test_an_expired_batch_has_what_was_done(tmp_path: Path) -> None:
    gate, now = Gate(10), [time.time()]
    async with batch_server(tmp_path, FakeServing(gate.script), clock=lambda: now[0]) as (
        _,
        client,
    ):
        batch = await submit(client, MANY, window="2s")
        batch = await until(client, batch, "expired")
        good, bad = await results(client, batch)
    assert batch.expired_at is not None
    assert len(good) == 10
    assert {record["error"]["code"] for record in bad} == {"batch_expired"}
    assert named(good + bad) == NAMES


async def test_a_restart_takes_up_what_was_left(tmp_path: Path) -> None:
    gate = Gate(10)
    async with batch_server(tmp_path, FakeServing(gate.script)) as (_, client):
        batch = await submit(client, MANY)
        await until(client, batch, holds=lambda b: b.request_counts.completed == 10)  # type: ignore[union-attr]  # a batch here has counts
    again = FakeServing()
    async with batch_server(tmp_path, again) as (_, client):
        batch = await until(client, batch, "completed")
        good, bad = await results(client, batch)
        stored = [file.id async for file in client.files.list()]
    assert (named(good), bad) == (NAMES, [])
    assert len(again.submits) == 190
    assert set(stored) == {batch.input_file_id, batch.output_file_id}
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (200, 200, 0)


async def test_never_more_lines_than_the_model_has_places(tmp_path: Path) -> None:
    gate = Gate(0)
    serving = FakeServing(gate.script)  # of 16 places
    async with batch_server(tmp_path, serving) as (_, client):
        batches = [await submit(client, MANY) for _ in range(2)]
        await serving.got(14)
        await asyncio.sleep(0.1)
        assert len(serving.submits) == 14
        gate.open()
        for batch in batches:
            await until(client, batch, "completed")


async def test_one_line_while_somebody_else_uses_the_model(tmp_path: Path) -> None:
    gate = Gate(0)
    serving = FakeServing(gate.script)  # of 16 places
    serving.quiet = 0.0
    async with batch_server(tmp_path, serving) as (_, client):
        batch = await submit(client, MANY)
        await serving.got(1)
        await asyncio.sleep(0.1)
        assert len(serving.submits) == 1
        serving.quiet = 60.0
        await serving.got(14)
        gate.open()
        await until(client, batch, "completed")


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    serving = FakeServing()
    serving.refusal = Overloaded("full", retry_after_seconds=0.1)
    async with batch_server(tmp_path, serving) as (server, client):
        batch = await submit(client, lines(line("a")))
        await until(client, batch, "in_progress")
        await until(client, batch, holds=lambda _: counted(server, "hearth_batch_retries_total"))
        serving.refusal = None
        batch = await until(client, batch, "completed")
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1


async def test_an_engine_that_dies_with_a_line_is_given_it_four_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearthd.batch.answerer._FIRST_BACKOFF_SECONDS", 0.01)

    async def dies(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        raise EngineFailed("the engine died")
        yield

    serving = FakeServing(dies)
    async with batch_server(tmp_path, serving) as (_, client):
        batch = await until(client, await submit(client, lines(line("a"))), "completed")
        good, bad = await results(client, batch)
    assert good == []
    assert bad[0]["response"]["status_code"] == 500
    assert len(serving.submits) == 4


class SmallDisk(Disk):
    """Has no room while `is_full`."""

    is_full = False

    def check_room(self, folder: Path, n_bytes: int) -> None:
        if self.is_full:
            raise DiskTrouble("full", "the disk is full")


async def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearthd.batch.keeper.PAUSE_SECONDS", 0.02)
    disk, gate = SmallDisk(), Gate(20)
    serving = FakeServing(gate.script)
    async with batch_server(tmp_path, serving, disk=disk) as (server, client):
        batch = await submit(client, MANY)
        await until(client, batch, holds=lambda b: b.request_counts.completed == 20)  # type: ignore[union-attr]  # a batch here has counts
        disk.is_full = True
        gate.open()
        batch = await until(client, batch, holds=lambda b: b.hearth["paused"] is not None)  # type: ignore[attr-defined]  # a field of ours that OpenAI's client keeps
        assert batch.status == "in_progress"
        page = server.metrics.render()
        assert b"hearth_batch_paused_jobs 1.0" in page
        assert b'hearth_batch_pauses_total{reason="full"} 1.0' in page
        n_asked = len(serving.submits)
        assert n_asked < 200  # it stops asking when nothing can be written
        disk.is_full = False
        batch = await until(client, batch, "completed")
        good, bad = await results(client, batch)
        assert b"hearth_batch_paused_jobs 0.0" in server.metrics.render()
    assert (named(good), bad) == (NAMES, [])
    assert len(serving.submits) == 200  # nothing was asked twice


async def test_a_daemon_can_stop_while_the_disk_is_full(tmp_path: Path) -> None:
    disk, gate = SmallDisk(), Gate(20)
    async with batch_server(tmp_path, FakeServing(gate.script), disk=disk) as (_, client):
        batch = await submit(client, MANY)
        await until(client, batch, holds=lambda b: b.request_counts.completed == 20)  # type: ignore[union-attr]  # a batch here has counts
        disk.is_full = True
        gate.open()
        await until(client, batch, holds=lambda b: b.hearth["paused"] is not None)  # type: ignore[attr-defined]  # a field of ours that OpenAI's client keeps
    async with batch_server(tmp_path, FakeServing()) as (_, client):
        batch = await until(client, batch, "completed")
        good, bad = await results(client, batch)
    assert (named(good), bad) == (NAMES, [])


async def test_a_batch_ends_with_its_key(tmp_path: Path) -> None:
    keys = {name: KeyConfig(hash=hashlib.sha256(name.encode()).hexdigest()) for name in ("a", "b")}
    gate = Gate(0)
    async with batch_server(tmp_path, FakeServing(gate.script), keys=keys) as (_, client):
        mine, theirs = (client.with_options(api_key=name) for name in ("a", "b"))
        batch = await submit(mine, MANY)
        with pytest.raises(NotFoundError):
            await theirs.batches.retrieve(batch.id)
        with pytest.raises(NotFoundError):
            await theirs.files.content(batch.input_file_id)
        assert [b async for b in theirs.batches.list()] == []
        assert [b.id async for b in mine.batches.list()] == [batch.id]
        with pytest.raises(BadRequestError) as refused:
            await mine.files.delete(batch.input_file_id)
    assert refused.value.code == "file_in_use"
    del keys["a"]
    async with batch_server(tmp_path, FakeServing()) as (_, client):  # whose operator sees all
        batch = await until(client, batch, "failed")
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].code == "key_revoked"


async def test_a_key_keeps_half_of_its_places_for_other_requests(tmp_path: Path) -> None:
    limits = KeyLimitsConfig(concurrency=4)
    keys = {"a": KeyConfig(hash=hashlib.sha256(b"a").hexdigest(), limits=limits)}
    gate = Gate(0)
    serving = FakeServing(gate.script)
    async with batch_server(tmp_path, serving, keys=keys) as (_, client):
        batch = await submit(client.with_options(api_key="a"), MANY)
        await serving.got(2)
        await asyncio.sleep(0.1)
        assert len(serving.submits) == 2
        assert {request.principal.name for request in serving.requests} == {"a"}
        gate.open()
        await until(client.with_options(api_key="a"), batch, "completed")


async def test_a_database_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    (tmp_path / "batches.db").write_bytes(b"no database" * 1000)
    async with batch_server(tmp_path, FakeServing()) as (server, _), server.http() as http:
        async with http.get("/v1/batches") as answer:
            assert answer.status == 500
            assert (await answer.json())["error"]["code"] == "batch_failed"
        async with http.get("/livez") as answer:
            assert answer.status == 200


async def test_left_at_any_moment_each_line_is_answered_once(tmp_path: Path) -> None:
    """Twelve times the daemon goes, after any number of answers, some of them still on their way to the disk."""
    rng = random.Random(11)
    content = lines(*(line(f"id-{i:03}") for i in range(199)), b"{")
    batch = None
    for _ in range(12):
        gate = Gate(rng.randrange(30))
        serving = FakeServing(gate.script)
        async with batch_server(tmp_path, serving) as (_, client):
            batch = batch or await submit(client, content)
            for _ in range(rng.randrange(40)):
                await asyncio.sleep(0)
            await asyncio.sleep(rng.random() * 0.05)
    assert batch is not None
    async with batch_server(tmp_path, FakeServing()) as (_, client):
        batch = await until(client, batch, "completed")
        good, bad = await results(client, batch)
    assert named(good) == NAMES[:199]
    assert [record["error"]["code"] for record in bad] == ["invalid_json_line"]


async def test_a_model_that_failed_is_waited_for_and_told_of(tmp_path: Path) -> None:
    serving = FakeServing()
    serving.refusal = ModelFailed("the model canary cannot be loaded")
    batches = make_batches(tmp_path, serving)
    async with ApiServer(serving, batches=batches) as server, server.openai() as client:
        batch = await submit(client, lines(line("a")))
        await until(client, batch, holds=lambda b: b.hearth["paused"] is not None)  # type: ignore[attr-defined]  # a field of ours that OpenAI's client keeps
        assert batches.paused() == {batch.id: "the model canary cannot be loaded"}
