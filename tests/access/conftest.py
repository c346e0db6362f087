"""A register in a folder of its own, whose clock a test turns."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_serving import FakeServing

from hearthd.access.keyring import Keyring
from hearthd.access.register import Register
from hearthd.access.stored import FILE_NAME
from hearthd.access.tables import ACCESS
from hearthd.store.database import Database


class Clock:
    """Unix time as a test has it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def empty_register(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a register without keys, to be copied: its tables are made by a child process."""
    path = tmp_path_factory.mktemp("access") / FILE_NAME
    Database.open(path, ACCESS).close()
    return path


@pytest.fixture
async def register(tmp_path: Path, clock: Clock, empty_register: Path) -> AsyncIterator[Register]:
    await asyncio.to_thread(shutil.copy, empty_register, tmp_path)
    made = Register(tmp_path, Keyring(clock=clock), models=("canary", "small"))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def serving() -> AsyncIterator[FakeServing]:
    fake = FakeServing()
    yield fake
    await fake.stop()
