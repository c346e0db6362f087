"""Engines that are lost: the next one answers what had not started, and goes on with what had."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any, cast

import msgspec
import psutil
import pytest
from serving_rig import WAIT_SECONDS, ServingRig, Start, read

from hearthd import wire
from hearthd.config import ModelConfig
from hearthd.errors import EngineFailed, ModelFailed
from hearthd.serving.generation import Generation
from hearthd.serving.restart import RestartPolicy
from hearthd.serving.vitals import Patience

SLOW = ModelConfig(path="sim:latency_ms=10", concurrency=1)
PROMPTS = ("b", "c", "d")
LENGTH = 80
"""Tokens of the answer that is cut off: 0.8 s."""


async def queue_up(rig: ServingRig) -> tuple[Generation, str, list[Generation], list[str]]:
    """A request that has started, three that wait behind it, and the answers all must get."""
    expected = [await read(rig.ask(prompt)) for prompt in PROMPTS]
    whole = await read(rig.ask("a", max_tokens=LENGTH))
    started = rig.ask("a", max_tokens=LENGTH)
    async with asyncio.timeout(WAIT_SECONDS):
        first = await anext(started)
    assert whole.startswith(first.text)
    return started, whole[len(first.text) :], [rig.ask(prompt) for prompt in PROMPTS], expected


async def check_replaced(
    rig: ServingRig, started: Generation, rest: str, waiting: list[Generation], expected: list[str]
) -> None:
    assert await read(started) == rest
    assert (started.n_attempts, started.finish) == (2, "length")
    assert started.timeline.n_output == LENGTH
    assert [await read(generation) for generation in waiting] == expected
    moments = [generation.timeline.started_seconds or 0.0 for generation in waiting]
    assert moments == sorted(moments)
    assert [generation.n_attempts for generation in waiting] == [2, 2, 2]
    status = rig.serving.model("m")
    assert (status.state, status.n_restarts, status.error) == ("ready", 1, None)
    assert len(rig.ledger.leases) == 1


async def test_killed(start: Start) -> None:
    rig = start({"m": SLOW})
    started, rest, waiting, expected = await queue_up(rig)
    call = asyncio.create_task(rig.serving.encode("m", wire.Encode(rid=0, text="x")))
    pid = rig.serving.model("m").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await check_replaced(rig, started, rest, waiting, expected)
    assert len((await call).tokens) == 1


async def test_stopped_in_its_tracks(start: Start) -> None:
    rig = start({"m": SLOW}, patience=Patience(heartbeat_seconds=2.0))
    started, rest, waiting, expected = await queue_up(rig)
    pid = rig.serving.model("m").pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    await check_replaced(rig, started, rest, waiting, expected)
    assert time.monotonic() - began < 10
    assert not psutil.pid_exists(pid)


async def test_a_step_that_hangs(start: Start) -> None:
    rig = start(
        {"m": ModelConfig(path="sim:hang_after=4")}, patience=Patience(step_timeout_seconds=0.5)
    )
    with pytest.raises(EngineFailed, match=r"was answered: .* hung in one step"):
        await read(rig.ask(max_tokens=20))
    assert rig.serving.model("m").n_restarts == 3
    assert len(await read(rig.ask(max_tokens=3))) > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["zzz"]},
        {"echo": True, "prompt_logprobs": 2},
        {"sampling": wire.Sampling(temperature=1.0, seed=5, n_logprobs=1)},
        {"constraint": wire.RegexConstraint("[a-f]{40}"), "ignore_eos": False},
    ],
    ids=["stop", "echo", "seed", "grammar"],
)
async def test_an_answer_goes_on_after_three_engines(start: Start, fields: dict[str, Any]) -> None:
    whole_rig = start({"m": ModelConfig(path="sim:")})
    whole = [delta async for delta in whole_rig.ask("begin", max_tokens=40, **fields)]
    rig = start({"m": ModelConfig(path="sim:die_after=16", concurrency=1)})
    cut = [delta async for delta in rig.ask("begin", max_tokens=40, **fields)]
    assert rig.serving.model("m").n_restarts == 2
    assert "".join(delta.text for delta in cut) == "".join(delta.text for delta in whole)
    for field in ("tokens", "logprobs"):
        assert _joined(cut, field) == _joined(whole, field)
    assert cut[-1].finish == whole[-1].finish


async def test_another_model_does_not_say_the_rest(start: Start) -> None:
    rig = start({"m": SLOW})
    generation = rig.ask(max_tokens=2000)
    async with asyncio.timeout(WAIT_SECONDS):
        await anext(generation)
    info = generation.info
    assert info is not None
    generation.info = msgspec.structs.replace(info, digest="0" * 64)  # as if another file had begun
    os.kill(cast(int, rig.serving.model("m").pid), signal.SIGKILL)
    with pytest.raises(EngineFailed, match="the model is another now; the answer is incomplete"):
        await read(generation)


def _joined(deltas: list[wire.Delta], field: str) -> list[object]:
    return [item for delta in deltas for item in getattr(delta, field) or ()]


async def test_a_request_that_kills_every_engine_is_dropped(start: Start) -> None:
    model = ModelConfig(path="sim:die_after=2", step_tokens=16, concurrency=1)
    rig = start({"m": model})
    with pytest.raises(EngineFailed, match="3 engines were lost"):
        await read(rig.ask("x" * 200))
    await rig.until_state("ready")
    assert rig.serving.model("m").n_restarts == 3
    assert len(await read(rig.ask("x", max_tokens=1))) > 0


async def test_engines_that_die_again_and_again_are_given_up(start: Start) -> None:
    rig = start(
        {"m": ModelConfig(path="sim:die_after=2", step_tokens=16)},
        restarts=RestartPolicy(limit=2),
    )
    with pytest.raises(ModelFailed, match="lost 2 engines in a row"):
        await read(rig.ask("x" * 200))
    status = rig.serving.model("m")
    assert (status.state, status.pid) == ("failed", None)
    assert rig.ledger.leases == ()


async def test_a_step_that_fails_is_no_loss(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:fail_every=3")})
    assert len(await read(rig.ask(max_tokens=10))) > 0
    assert rig.serving.model("m").n_restarts == 0
