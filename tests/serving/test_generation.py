"""A Generation by itself: order, errors after what came before them, and its timeline."""

from __future__ import annotations

import asyncio

import pytest

from hearthd import wire
from hearthd.errors import EngineFailed, InvalidRequest
from hearthd.serving.generation import Generation
from hearthd.telemetry.timeline import RequestTimeline


@pytest.fixture
def left() -> list[Generation]:
    return []


@pytest.fixture
def generation(left: list[Generation]) -> Generation:
    submit = wire.Submit(rid=1, sampling=wire.Sampling())
    return Generation(submit, RequestTimeline("m", "normal", 10.0), left.append)


async def test_deltas_come_in_order_whoever_is_faster(
    generation: Generation, left: list[Generation]
) -> None:
    generation.push(wire.Delta(1, "a", [1]), 11.0)
    reader = asyncio.create_task(_texts(generation))
    await asyncio.sleep(0)
    for text in "bcd":
        generation.push(wire.Delta(1, text, [1]), 12.0)
    await asyncio.sleep(0)
    generation.push(wire.Delta(1, "e", [1], finish="length"), 13.0)
    generation.push(wire.Delta(1, "too late", [1]), 14.0)
    assert await reader == ["a", "b", "c", "d", "e"]
    assert left == []


async def test_an_error_comes_after_what_was_generated(generation: Generation) -> None:
    generation.push(wire.Delta(1, "a", [1]), 11.0)
    generation.push(wire.Delta(1, "b", [2], finish="error", error=("kv_capacity", "no room")), 12.0)
    assert [(await anext(generation)).text for _ in range(2)] == ["a", "b"]
    with pytest.raises(EngineFailed, match="no room") as failed:
        await anext(generation)
    assert failed.value.code == "kv_capacity"
    assert generation.timeline.outcome == "error"


async def test_failing_wakes_the_reader(generation: Generation) -> None:
    reader = asyncio.create_task(_texts(generation))
    await asyncio.sleep(0)
    generation.fail(InvalidRequest("no"), 11.0)
    generation.fail(EngineFailed("later"), 12.0)
    with pytest.raises(InvalidRequest):
        await reader
    assert generation.timeline.outcome == "rejected"
    assert generation.timeline.finished_seconds == 11.0


async def test_leaving_early_is_told_and_leaving_late_is_not(
    generation: Generation, left: list[Generation]
) -> None:
    async with generation:
        pass
    assert left == [generation]
    generation.push(wire.Delta(1, "a", [1], finish="stop"), 11.0)
    async with generation:
        pass
    assert left == [generation]


async def test_the_timeline_counts_tokens_and_moments(generation: Generation) -> None:
    usage = wire.Usage(n_prompt=7, n_output=1, n_cached=4)
    generation.taken_by(None, 10.5)
    generation.push(wire.Delta(1, "a", [1], usage=usage, started_seconds=11.0), 12.0)
    generation.push(wire.Delta(1, "", [], finish="stop", usage=wire.Usage(7, 3, 4)), 15.0)
    timeline = generation.timeline
    assert (timeline.n_prompt, timeline.n_output, timeline.n_cached) == (7, 3, 4)
    assert (timeline.queue_seconds, timeline.ttft_seconds, timeline.e2e_seconds) == (1.0, 2.0, 5.0)
    assert timeline.outcome == "stop"


async def _texts(generation: Generation) -> list[str]:
    return [delta.text async for delta in generation]
