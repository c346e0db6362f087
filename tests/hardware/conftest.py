"""Machines that are not here."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_machine import FakeMachine, StubNvml, build_stub_nvml


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    """One with two processors and nothing else, until a test adds to it."""
    made = FakeMachine(tmp_path / "machine")
    made.host()
    return made


@pytest.fixture(scope="session")
def _library(tmp_path_factory: pytest.TempPathFactory) -> StubNvml:
    return build_stub_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(_library: StubNvml) -> StubNvml:
    """A library that has no GPUs, until a test says which."""
    _library.say()
    return _library
