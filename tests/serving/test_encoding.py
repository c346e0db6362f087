"""Requests for vectors: admitted, charged, shed, repeated on another engine, as generations are."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import numpy as np
import pytest
from serving_rig import WAIT_SECONDS, ServingRig, Start

from hearthd import wire
from hearthd.config import ModelConfig
from hearthd.errors import (
    ConcurrencyLimited,
    DeadlineExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    RateLimited,
)
from hearthd.serving.encoding import Encoding, EncodingRequest
from hearthd.serving.principal import KeyLimits, Principal
from hearthd.serving.restart import RestartPolicy
from hearthd.serving.vitals import Patience

FAST = ModelConfig(path="sim:task=embed")
SLOW = ModelConfig(path="sim:task=embed,latency_ms=50", concurrency=1, step_tokens=4)


def _ask(rig: ServingRig, *texts: str, klass: Any = "normal", **fields: Any) -> Encoding:
    principal = fields.pop("principal", Principal("k"))
    frame = wire.Embed(rid=0, texts=list(texts), **fields)
    return rig.serving.embed(EncodingRequest("m", frame, "test", klass, principal))


async def _read(encoding: Encoding) -> Any:
    async with asyncio.timeout(WAIT_SECONDS), encoding:
        found = await encoding.result()
    return np.frombuffer(found.values, "<f4").reshape(found.n, found.dim)


async def _until_idle(rig: ServingRig) -> wire.Beat:
    status = await rig.until(
        lambda status: (
            status.beat is not None and status.beat.n_running + status.beat.n_waiting == 0
        )
    )
    assert status.beat is not None
    return status.beat


async def test_vectors_come_and_are_counted(start: Start) -> None:
    rig = start({"m": FAST})
    encoding = _ask(rig, "abc", "abd")
    assert (await _read(encoding)).shape == (2, 32)
    timeline = encoding.timeline
    assert (timeline.n_prompt, timeline.n_output, timeline.outcome) == (6, 0, "stop")
    assert timeline.queue_seconds is not None
    assert timeline.ttft_seconds is None
    status = rig.serving.model("m")
    assert (status.n_running, status.n_waiting) == (0, 0)
    assert status.info is not None
    assert status.info.task == "embed"
    assert rig.serving.readiness().ready
    lines = rig.metrics.render().decode()
    assert 'hearth_requests_total{class="normal",model="m",outcome="stop"} 1.0' in lines
    assert 'hearth_key_prompt_tokens_total{class="normal",key="k"} 6.0' in lines


async def test_an_engine_that_is_lost_is_replaced_and_asked_again(start: Start) -> None:
    rig = start({"m": SLOW})
    expected = await _read(_ask(rig, *["abcd"] * 3))
    encodings = [_ask(rig, *["abcd"] * 3), _ask(rig, *["abcd"] * 40)]
    await rig.until(lambda status: status.beat is not None and status.beat.n_running > 0)
    pid = rig.serving.model("m").pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await rig.until_state("restarting")
    for encoding in encodings:
        found = await _read(encoding)
        np.testing.assert_array_equal(found, np.repeat(expected[:1], len(found), axis=0))
    assert encodings[1].n_attempts == 2
    assert rig.serving.model("m").n_restarts == 1


async def test_a_request_that_kills_engines_ends(start: Start) -> None:
    config = ModelConfig(path="sim:task=embed,die_after=2", step_tokens=4)
    rig = start({"m": config}, restarts=RestartPolicy(20, 60.0))
    with pytest.raises(EngineFailed, match="3 engines were lost"):
        await _read(_ask(rig, *["abcd"] * 9))


async def test_what_the_engine_refuses(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:task=embed", context=16)})
    with pytest.raises(InvalidRequest, match="takes 16"):
        await _read(_ask(rig, "x" * 17))
    with pytest.raises(InvalidRequest, match="generates no text"):
        async with rig.ask("a") as generation:
            await anext(generation)
    assert (await _read(_ask(rig, "x" * 16))).shape == (1, 32)


async def test_who_leaves_is_not_computed_for(start: Start) -> None:
    rig = start({"m": SLOW})
    await _read(_ask(rig, "a"))
    encoding = _ask(rig, *["abcd"] * 1000)
    await rig.until(lambda status: status.beat is not None and status.beat.n_running > 0)
    async with encoding:
        pass
    assert encoding.finish == "cancelled"
    beat = await _until_idle(rig)
    assert beat.n_texts < 900


async def test_deadlines(start: Start) -> None:
    rig = start({"m": SLOW})
    await _read(_ask(rig, "a"))
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await _read(_ask(rig, *["abcd"] * 1000, deadline_seconds=began + 0.5))
    assert time.monotonic() - began < 5
    await _until_idle(rig)
    assert (await _read(_ask(rig, "a", deadline_seconds=time.monotonic() + 20))).shape == (1, 32)


async def test_limits_of_a_key(start: Start) -> None:
    rig = start({"m": SLOW})
    await _read(_ask(rig, "a"))
    one = Principal("one", limits=KeyLimits(concurrency=1))
    running = _ask(rig, *["abcd"] * 5, principal=one)
    with pytest.raises(ConcurrencyLimited):
        _ask(rig, "a", principal=one)
    assert len(await _read(running)) == 5
    assert len(await _read(_ask(rig, "a", principal=one))) == 1
    few = Principal("few", limits=KeyLimits(tokens_per_minute=100))
    assert len(await _read(_ask(rig, "x" * 90, principal=few))) == 1
    with pytest.raises(RateLimited):
        _ask(rig, "x" * 90, principal=few)


async def test_a_full_queue(start: Start) -> None:
    rig = start({"m": SLOW}, queue_limit=2)
    await _read(_ask(rig, "a"))
    encodings = [_ask(rig, *["abcd"] * 5) for _ in range(3)]
    with pytest.raises(Overloaded):
        _ask(rig, "a")
    for encoding in encodings:
        await _read(encoding)


async def test_interactive_requests_go_before_batch(start: Start) -> None:
    rig = start({"m": SLOW})
    await _read(_ask(rig, "a"))
    batch = asyncio.create_task(_read(_ask(rig, *["abcd"] * 60, klass="batch")))
    await asyncio.sleep(0.3)
    await _read(_ask(rig, *["abcd"] * 3, klass="interactive"))
    assert not batch.done()
    assert len(await batch) == 60


async def test_an_encoder_that_hangs_is_not_ready_and_is_replaced(start: Start) -> None:
    config = ModelConfig(path="sim:task=embed,hang_after=3")
    patience = Patience(step_timeout_seconds=1.0, probe_seconds=0.3)
    rig = start({"m": config}, patience=patience)
    await rig.until(lambda status: status.answers)
    await rig.until(lambda status: status.n_restarts > 0)
    await rig.until(lambda status: status.answers)


async def test_what_runs_is_finished_when_the_daemon_goes_down(start: Start) -> None:
    rig = start({"m": SLOW})
    await _read(_ask(rig, "a"))
    encoding = asyncio.create_task(_read(_ask(rig, *["abcd"] * 10)))
    await asyncio.sleep(0.1)
    assert await rig.serving.drain(10.0)
    assert len(await encoding) == 10
