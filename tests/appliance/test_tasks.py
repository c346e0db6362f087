"""Tasks that nobody waits for end with what they belong to; what they fail with is told."""

from __future__ import annotations

import asyncio

import pytest

from hearthd.tasks import going_on


async def test_what_is_not_done_at_the_end_is_cancelled() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def meanwhile() -> None:
        async with going_on(work(), "work"):
            await asyncio.sleep(0)
            assert not ended.is_set()
            raise ValueError("of what goes on meanwhile")

    with pytest.raises(ValueError, match="of what goes on meanwhile"):
        await meanwhile()
    assert ended.is_set()


async def test_a_failure_is_told_at_once_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise ValueError("no sense")

    async with going_on(work(), "the looking"):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        (record,) = caplog.records
        assert (record.levelname, record.message) == (
            "CRITICAL",
            "the looking: the task has failed",
        )
        assert "no sense" in caplog.text
