"""What operators do to models: load, unload, drain, pin, and end requests; with real engine processes."""

from __future__ import annotations

import asyncio

import psutil
import pytest
from serving_rig import ServingRig, Start, read

from hearthd.config import ModelConfig
from hearthd.errors import CancelledByOperator, Conflict, ModelDrained, ModelUnloaded
from hearthd.serving.operations import Intake, Operation, next_intake

ECHO = ModelConfig(path="sim:says=echo")
SLOW = ModelConfig(path="sim:latency_ms=20", concurrency=1)
LONG = 2000


async def ready(rig: ServingRig) -> int:
    """The process of the engine, once it serves."""
    pid = (await rig.until_state("ready")).pid
    assert pid is not None
    return pid


async def test_an_unloaded_model_gives_its_memory_back_and_loads_again(start: Start) -> None:
    rig = start({"m": ECHO})
    pid = await ready(rig)
    assert rig.ledger.leases
    assert rig.serving.operate("m", "unload", 5.0).state == "unloading"
    status = await rig.until_state("unloaded")
    assert (status.pid, status.answers, rig.ledger.leases) == (None, False, ())
    assert not psutil.pid_exists(pid)
    with pytest.raises(ModelUnloaded):
        rig.ask()
    assert not rig.serving.readiness().ready  # no model is left that could be
    rig.serving.operate("m", "load", 5.0)
    assert await read(rig.ask("again\n", max_tokens=5)) == "again"
    assert await ready(rig) != pid


async def test_what_runs_may_finish_before_an_unload(start: Start) -> None:
    rig = start({"m": SLOW})
    await ready(rig)
    running = asyncio.create_task(read(rig.ask(max_tokens=8)))
    await rig.until(lambda status: status.n_running == 1)
    rig.serving.operate("m", "unload", 30.0)
    assert await running
    await rig.until_state("unloaded")


async def test_what_runs_too_long_is_cut_off(start: Start) -> None:
    rig = start({"m": SLOW})
    await ready(rig)
    running = asyncio.create_task(read(rig.ask(max_tokens=LONG)))
    await rig.until(lambda status: status.n_running == 1)
    rig.serving.operate("m", "unload", 0.1)
    with pytest.raises(ModelUnloaded):
        await running
    await rig.until_state("unloaded")


async def test_a_drained_model_finishes_and_takes_nothing_new(start: Start) -> None:
    rig = start({"m": SLOW, "other": ECHO})
    pid = await ready(rig)
    await rig.until_state("ready", "other")
    running = asyncio.create_task(read(rig.ask(max_tokens=8)))
    await rig.until(lambda status: status.n_running == 1)
    assert rig.serving.operate("m", "drain", 1.0).state == "drained"
    with pytest.raises(ModelDrained):
        rig.ask()
    assert await running
    assert rig.serving.model("m").pid == pid
    assert rig.serving.operate("m", "load", 1.0).state == "ready"
    assert await read(rig.ask(max_tokens=2))


async def test_the_box_is_ready_without_a_model_that_was_taken_out(start: Start) -> None:
    rig = start({"m": ECHO, "other": ECHO})
    for name in ("m", "other"):
        await rig.until(lambda status: status.answers, name)
    rig.serving.operate("m", "drain", 1.0)
    assert rig.serving.readiness().ready


async def test_a_pinned_model_stays(start: Start) -> None:
    rig = start({"m": ECHO})
    await ready(rig)
    assert rig.serving.operate("m", "pin", 1.0).pinned
    with pytest.raises(Conflict, match="pinned"):
        rig.serving.operate("m", "unload", 1.0)
    assert rig.serving.model("m").state == "ready"
    assert not rig.serving.operate("m", "unpin", 1.0).pinned


async def test_a_failed_model_is_loaded_anew(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:fail_load=broken")})
    await rig.until_state("failed")
    assert rig.serving.operate("m", "load", 1.0).state == "loading"
    await rig.until_state("failed")


async def test_an_unload_before_the_load_is_done(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:load_seconds=60")})
    await rig.until(lambda status: status.pid is not None)
    waiting = asyncio.create_task(read(rig.ask()))
    await asyncio.sleep(0)
    rig.serving.operate("m", "unload", 0.0)
    with pytest.raises(ModelUnloaded):
        await waiting
    await rig.until_state("unloaded")


async def test_a_request_is_ended_and_its_client_told(start: Start) -> None:
    rig = start({"m": SLOW})
    await ready(rig)
    generation = rig.ask(max_tokens=LONG)
    running = asyncio.create_task(read(generation))
    await rig.until(lambda status: status.n_running == 1)
    (seen,) = rig.serving.under_way()
    assert (seen.number, seen.model, seen.key, seen.running) == (
        generation.rid,
        "m",
        "anonymous",
        True,
    )
    assert seen.n_prompt is not None
    assert seen.ttft_seconds is not None
    assert rig.serving.cancel(seen.number)
    with pytest.raises(CancelledByOperator):
        await running
    assert rig.serving.under_way() == []
    assert not rig.serving.cancel(seen.number)
    assert generation.timeline.outcome == "cancelled"
    assert rig.serving.tokens().n_output == generation.timeline.n_output > 0
    assert await read(rig.ask(max_tokens=2))  # its place is free again


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        ("load", "unloaded", "open"),
        ("load", "drained", "open"),
        ("unload", "drained", "unloaded"),
        ("drain", "open", "drained"),
        ("pin", "drained", "drained"),
        ("unpin", "open", "open"),
    ],
)
def test_what_becomes_of_a_models_intake(
    operation: Operation, before: Intake, after: Intake
) -> None:
    assert next_intake(operation, before, name="m", pinned=False) == after


def test_nothing_is_drained_where_nothing_runs() -> None:
    with pytest.raises(Conflict, match="unloaded"):
        next_intake("drain", "unloaded", name="m", pinned=False)
