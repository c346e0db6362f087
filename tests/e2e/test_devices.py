"""A real `hearthd` on a box that is not here: cards come, hang and go while it serves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_machine import GIB, FakeMachine, Gpu, StubNvml, build_stub_nvml
from hearthd_process import Daemon, running

SECOND = Gpu("GPU-2", "00000000:41:00.0", 12288, 0, "NVIDIA RTX 3060")
NOTICED_SECONDS = 10.0


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> StubNvml:
    return build_stub_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def box(short_path: Path, nvml: StubNvml) -> Iterator[Daemon]:
    machine = FakeMachine(short_path / "machine")
    machine.host()
    machine.amd()
    machine.nvidia()
    nvml.say(Gpu())
    settings = [
        f"hardware.root={machine.root}",
        f"hardware.nvml_library={nvml.library}",
        "hardware.checkup=false",
        "models.m.path=sim:",
        "models.on_card.path=sim:",
        'models.on_card.devices=["cuda:1"]',
    ]
    flags = [part for setting in settings for part in ("--set", setting)]
    with running(short_path, *flags) as daemon:
        yield daemon


def states(box: Daemon) -> dict[str, str]:
    devices: list[dict[str, Any]] = box.get("/api/v1/devices")[1]["devices"]
    return {device["name"]: device["state"] for device in devices}


@pytest.mark.slow
def test_cards_that_come_hang_and_go(box: Daemon, nvml: StubNvml) -> None:
    box.until(lambda: states(box) == {"cpu:0": "ready", "cuda:0": "ready", "rocm:0": "ready"})

    nvml.say(Gpu(), SECOND)
    _noticed(box, lambda: states(box).get("cuda:1") == "ready")
    card = next(d for d in box.get("/api/v1/devices")[1]["devices"] if d["name"] == "cuda:1")
    assert (card["description"], card["total_bytes"]) == ("NVIDIA RTX 3060", 12 * GIB)

    nvml.say(Gpu())
    _noticed(box, lambda: states(box)["cuda:1"] == "gone")

    nvml.say(Gpu(), hang=True)
    _noticed(box, lambda: states(box)["cuda:0"] == "silent", 2 * NOTICED_SECONDS)
    began = time.monotonic()
    assert box.get("/livez")[0] == 200
    assert box.get("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 4})[0] == 200
    assert time.monotonic() - began < 5
    assert states(box)["rocm:0"] == "ready"

    nvml.say(Gpu())
    _noticed(box, lambda: states(box)["cuda:0"] == "ready", 2 * NOTICED_SECONDS)


def test_a_model_on_a_card_that_is_not_there_says_so(box: Daemon) -> None:
    box.until(lambda: box.model("on_card")["state"] == "failed")
    assert "cuda:1" in box.model("on_card")["error"]
    box.until(lambda: box.model("m")["state"] == "ready")


def _noticed(box: Daemon, holds: Any, seconds: float = NOTICED_SECONDS) -> None:
    """Wait for it; fails where that takes longer than it may (and than a busy machine needs)."""
    began = time.monotonic()
    box.until(holds)
    assert time.monotonic() - began < seconds + 5
