"""A scripted serving whose answers name the question and how many were computed before."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cached import Cached
from fake_serving import FakeServing, Script, spell

from hearthd import wire


def numbered() -> Script:
    """Answers "QUESTION-1", then "QUESTION-2", whoever asks."""
    numbers = itertools.count(1)

    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        async for delta in spell(f"{submit.text}", "-", str(next(numbers)))(submit):
            yield delta

    return script


@pytest.fixture
async def serving() -> AsyncIterator[FakeServing]:
    fake = FakeServing(numbered())
    yield fake
    await fake.stop()


@pytest.fixture
async def cached(serving: FakeServing, tmp_path: Path) -> AsyncIterator[Cached]:
    async with Cached(serving, tmp_path).opened() as opened:
        yield opened
