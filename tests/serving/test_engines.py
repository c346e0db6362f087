"""Serving with real engine processes on the simulated model: answers, queues, deadlines, the end."""

from __future__ import annotations

import asyncio
import time

import psutil
import pytest
from serving_rig import WAIT_SECONDS, Start, read

from hearthd import wire
from hearthd.config import ModelConfig
from hearthd.errors import (
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    ModelFailed,
    ModelNotFound,
    Overloaded,
    ShuttingDown,
)

SLOW = ModelConfig(path="sim:latency_ms=20", concurrency=1)
LONG = 2000
"""Tokens of an answer that no test waits for: 40 s of SLOW."""


async def test_a_request_that_comes_early_waits_for_the_load(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:load_seconds=0.3,says=echo", aliases=("other",))})
    assert rig.serving.model("m").state == "loading"
    assert not rig.serving.readiness().ready
    generation = rig.ask("repeat me\n", model="other", max_tokens=9)
    assert generation.info is None
    assert await read(generation) == "repeat me"
    status = rig.serving.model("other")
    assert (status.state, status.n_running, status.n_waiting) == ("ready", 0, 0)
    assert generation.info == status.info
    assert rig.serving.readiness().ready


async def test_the_load_tells_how_far_it_is(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:load_seconds=1")})
    status = await rig.until(lambda status: 0.2 < (status.progress or 0) < 0.9)
    assert (status.state, status.phase) == ("loading", "loading")


async def test_tokens_and_text(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:")})
    encoded = await rig.serving.encode("m", wire.Encode(rid=0, text="héllo"))
    assert b"".join(encoded.pieces) == "héllo".encode()
    decoded = await rig.serving.decode("m", wire.Decode(rid=0, tokens=encoded.tokens))
    assert decoded.text == "héllo"
    with pytest.raises(InvalidRequest, match="outside the vocabulary"):
        await rig.serving.decode("m", wire.Decode(rid=0, tokens=[10**6]))


async def test_a_call_does_not_wait_for_ever(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:load_seconds=60")}, call_seconds=0.2)
    with pytest.raises(DeadlineExceeded):
        await rig.serving.encode("m", wire.Encode(rid=0, text="x"))


async def test_an_unknown_model_is_told_which_there_are(start: Start) -> None:
    rig = start({"m": SLOW})
    with pytest.raises(ModelNotFound, match="there are: m"):
        rig.ask(model="zzz")


@pytest.mark.parametrize(
    ("model", "budget_bytes", "reason"),
    [
        (ModelConfig(path="sim:fail_load=no good"), 1 << 40, "no good"),
        (ModelConfig(path="sim:", context=4096), 1000, "m needs .* of 1000 B are free"),
        (ModelConfig(path="/nowhere/absent.gguf"), 1 << 40, "absent.gguf"),
        (ModelConfig(path="sim:", devices=("gpu:7",)), 1 << 40, "gpu:7"),
    ],
)
async def test_a_model_that_cannot_be_loaded_says_why(
    start: Start, model: ModelConfig, budget_bytes: int, reason: str
) -> None:
    rig = start({"m": model}, budget_bytes=budget_bytes)
    waiting = rig.ask()
    with pytest.raises(ModelFailed, match=reason):
        await read(waiting)
    status = await rig.until_state("failed")
    assert status.error_code != "internal_error"
    assert rig.ledger.leases == ()
    assert not rig.serving.readiness().ready


async def test_a_failed_model_leaves_the_others_alone(start: Start) -> None:
    rig = start({"bad": ModelConfig(path="sim:fail_load=x"), "m": ModelConfig(path="sim:")})
    assert len(await read(rig.ask(max_tokens=3))) > 0
    await rig.until_state("failed", "bad")
    assert len(await read(rig.ask(max_tokens=3))) > 0
    readiness = rig.serving.readiness()
    assert not readiness.ready  # a configured model that cannot be had is no ready box
    states = {model.name: (model.state, model.answers) for model in readiness.models}
    assert states == {"bad": ("failed", False), "m": ("ready", True)}


async def test_a_reader_who_leaves_frees_the_slot(start: Start) -> None:
    rig = start({"m": SLOW})
    first = rig.ask("first", max_tokens=LONG)
    second = rig.ask("second", max_tokens=2)
    async with asyncio.timeout(WAIT_SECONDS), first:
        await anext(first)
        assert (rig.serving.model("m").n_running, rig.serving.model("m").n_waiting) == (1, 1)
        left = time.monotonic()
    assert first.finish == "cancelled"
    await read(second)
    started = second.timeline.started_seconds
    assert started is not None
    assert started - left < 2.0
    await rig.until(lambda status: status.n_running == 0)


async def test_a_task_that_is_cancelled_while_it_waits_leaves_nothing(start: Start) -> None:
    rig = start({"m": SLOW})
    await rig.until_state("ready")
    running = asyncio.create_task(read(rig.ask("first", max_tokens=LONG)))
    waiting = asyncio.create_task(read(rig.ask("second")))
    await rig.until(lambda status: (status.n_running, status.n_waiting) == (1, 1))
    waiting.cancel()
    running.cancel()
    await asyncio.gather(waiting, running, return_exceptions=True)
    await rig.until(lambda status: (status.n_running, status.n_waiting) == (0, 0))
    assert len(await read(rig.ask(max_tokens=3))) > 0


@pytest.mark.parametrize("already_late", [False, True])
async def test_a_deadline_that_passes_in_the_queue(start: Start, already_late: bool) -> None:
    rig = start({"m": SLOW})
    async with rig.ask("first", max_tokens=LONG) as first:
        await anext(first)
        deadline = time.monotonic() + (-1 if already_late else 0.2)
        with pytest.raises(DeadlineExceeded):
            await read(rig.ask("second", deadline_seconds=deadline))
        assert time.monotonic() - deadline < 2
        assert rig.serving.model("m").n_waiting == 0


async def test_a_full_queue_says_when_to_come_back(start: Start) -> None:
    rig = start({"m": SLOW}, queue_limit=2)
    await read(rig.ask(max_tokens=10))
    async with rig.ask("a", max_tokens=LONG), rig.ask("b"), rig.ask("c") as last:
        with pytest.raises(Overloaded) as refused:
            rig.ask("d")
        seconds = refused.value.retry_after_seconds
        assert seconds is not None
        assert 1 <= seconds <= 30
        await last.__aexit__(None, None, None)
        async with rig.ask("e"):
            assert rig.serving.model("m").n_waiting + rig.serving.model("m").n_running == 3
    assert 'outcome="rejected"' in rig.metrics.render().decode()


async def test_draining_lets_finish_what_runs_and_takes_nothing_new(start: Start) -> None:
    rig = start({"m": SLOW, "slow": ModelConfig(path="sim:load_seconds=60")})
    early = rig.ask(model="slow")
    generations = [rig.ask(str(i), max_tokens=10) for i in range(2)]
    running = asyncio.gather(*map(read, generations))
    await rig.until(lambda status: status.n_running == 1)
    drained = asyncio.create_task(rig.serving.drain(20))
    with pytest.raises(ShuttingDown):
        await read(early)
    with pytest.raises(ShuttingDown):
        rig.ask()
    assert rig.serving.readiness().draining
    assert all(len(text) > 0 for text in await running)
    assert await drained
    pid = rig.serving.model("m").pid
    assert pid is not None
    await rig.serving.stop()
    assert not psutil.pid_exists(pid)
    assert rig.ledger.leases == ()


async def test_a_drain_has_an_end(start: Start) -> None:
    rig = start({"m": SLOW})
    generation = rig.ask(max_tokens=LONG)
    await rig.until(lambda status: status.n_running == 1)
    assert not await rig.serving.drain(0.2)
    await rig.serving.stop()
    with pytest.raises(ShuttingDown):
        await read(generation)


async def test_what_is_known_is_told_at_once(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:hang_after=1")})
    hung = asyncio.create_task(read(rig.ask()))
    await rig.until(lambda status: status.n_running == 1)
    began = time.thread_time()
    for _ in range(100):
        rig.serving.models()
    assert time.thread_time() - began < 0.1
    hung.cancel()


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize(
    ("value", "wrong"), [(1 << 64, InvalidRequest), (object(), EngineFailed)], ids=["int", "object"]
)
async def test_what_no_frame_can_carry_keeps_no_place(
    start: Start, waits: bool, value: object, wrong: type[Exception]
) -> None:
    rig = start({"m": ModelConfig(path="sim:load_seconds=0.5" if waits else "sim:")})
    await rig.until_state("loading" if waits else "ready")
    unsendable = rig.ask(template_args={"x": value})
    others = [rig.ask(str(i), max_tokens=3) for i in range(2)]
    encode = wire.Encode(rid=0, messages=[{"x": value}])
    with pytest.raises(wrong):
        await rig.serving.encode("m", encode)
    with pytest.raises(wrong):
        await read(unsendable)
    assert all([await read(other) for other in others])
    assert (await rig.until(lambda status: not status.n_running)).n_waiting == 0
    assert await rig.serving.drain(1)
