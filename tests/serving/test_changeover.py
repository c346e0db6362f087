"""Models change while others serve: what runs is finished, what waits is answered, memory is given back first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from serving_rig import ServingRig, Start, read

from hearthd.config import ModelConfig
from hearthd.errors import EngineFailed, ModelNotFound, ShuttingDown
from hearthd.placement.ledger import MemoryLease

SLOW = ModelConfig(path="sim:latency_ms=10")


def change(rig: ServingRig, models: dict[str, ModelConfig], **options: Any) -> None:
    given = {"queue_limit": 64, "call_seconds": 30.0, "drain_seconds": 20.0, **options}
    rig.serving.reconfigure(models, **given)


def leases_of(rig: ServingRig, holder: str) -> list[MemoryLease]:
    return [lease for lease in rig.ledger.leases if lease.holder == holder]


async def settled(rig: ServingRig) -> None:
    async with asyncio.timeout(30):
        await rig.serving._changeover.settled()


async def test_a_model_comes_while_another_serves(start: Start) -> None:
    rig = start({"m": SLOW})
    await rig.until_state("ready")
    running = rig.ask(max_tokens=40)
    change(rig, {"m": SLOW, "n": ModelConfig(path="sim:")})
    await rig.until_state("ready", "n")
    assert await read(running)
    assert await read(rig.ask(model="n"))


async def test_a_model_that_leaves_finishes_what_it_has(start: Start) -> None:
    rig = start({"m": SLOW, "n": ModelConfig(path="sim:")})
    await rig.until_state("ready")
    running = rig.ask(max_tokens=40)
    change(rig, {"n": ModelConfig(path="sim:")})
    with pytest.raises(ModelNotFound):
        rig.ask()
    assert [model.name for model in rig.serving.models()] == ["n"]
    assert await read(running)
    await settled(rig)
    assert leases_of(rig, "m") == []


async def test_what_comes_for_a_changed_model_waits_for_its_new_engine(start: Start) -> None:
    rig = start({"m": SLOW})
    before = await rig.until_state("ready")
    running = rig.ask(max_tokens=40)
    change(rig, {"m": ModelConfig(path="sim:")})
    waiting = rig.ask()
    assert await read(running)
    assert await read(waiting)
    after = await rig.until_state("ready")
    assert after.pid != before.pid
    assert after.n_restarts == 0


async def test_what_does_not_end_in_time_is_cut_off(start: Start) -> None:
    rig = start({"m": SLOW})
    await rig.until_state("ready")
    running = rig.ask(max_tokens=3000)
    change(rig, {"m": ModelConfig(path="sim:")}, drain_seconds=0.2)
    with pytest.raises(EngineFailed, match="configuration of the model has changed"):
        await read(running)
    assert await read(rig.ask())


async def test_changes_wait_for_each_other(start: Start) -> None:
    rig = start({"m": SLOW})
    await rig.until_state("ready")
    first = rig.ask(max_tokens=40)
    change(rig, {"m": ModelConfig(path="sim:latency_ms=5")})
    second = rig.ask()
    change(rig, {"m": ModelConfig(path="sim:")})
    third = rig.ask()
    assert [bool(await read(each)) for each in (first, second, third)] == [True] * 3
    await settled(rig)
    assert len(leases_of(rig, "m")) == 1


async def test_memory_is_given_back_before_another_takes_it(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:")})
    status = await rig.until_state("ready")
    assert status.info is not None
    held = sum(lease.need.total_bytes for lease in leases_of(rig, "m"))
    tight = start({"m": ModelConfig(path="sim:")}, budget_bytes=int(held * 1.5))
    await tight.until_state("ready")
    change(tight, {"n": ModelConfig(path="sim:")})
    await tight.until_state("ready", "n")


async def test_an_alias_takes_no_new_engine(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:")})
    before = await rig.until_state("ready")
    change(rig, {"m": ModelConfig(path="sim:", aliases=("x",))})
    assert await read(rig.ask(model="x"))
    assert rig.serving.model("x").pid == before.pid


async def test_a_changed_model_that_has_failed_is_tried_again(start: Start) -> None:
    rig = start({"m": ModelConfig(path="/absent.gguf")})
    await rig.until_state("failed")
    change(rig, {"m": ModelConfig(path="sim:")})
    assert await read(rig.ask())


async def test_a_stop_does_not_wait_for_a_change(start: Start) -> None:
    rig = start({"m": SLOW})
    await rig.until_state("ready")
    running = rig.ask(max_tokens=3000)
    change(rig, {"m": ModelConfig(path="sim:")}, drain_seconds=60.0)
    await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        await rig.serving.stop()
    with pytest.raises(ShuttingDown):
        await read(running)
