"""A register in a folder of its own, whose clock a test turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_serving import FakeServing

from hearthd.access.keyring import Keyring
from hearthd.access.register import Register


class Clock:
    """Unix time as a test has it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def register(tmp_path: Path, clock: Clock) -> AsyncIterator[Register]:
    made = Register(tmp_path, Keyring(clock=clock), models=("canary", "small"))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def serving() -> AsyncIterator[FakeServing]:
    fake = FakeServing()
    yield fake
    await fake.stop()
