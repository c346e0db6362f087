"""A model on the second memory node of a box, which is this one with other files in /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_machine import FakeMachine
from hearthd_process import running

CPUS = sorted(os.sched_getaffinity(0))


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two processors")
def test_a_model_keeps_to_its_node(short_path: Path) -> None:
    machine = FakeMachine(short_path / "machine")
    machine.host(nodes=[CPUS[:1], CPUS[1:]])
    settings = [f"hardware.root={machine.root}", "hardware.checkup=false", "models.m.path=sim:"]
    settings.append('models.m.devices=["cpu:1"]')
    flags = [part for setting in settings for part in ("--set", setting)]
    with running(short_path, *flags) as daemon:
        daemon.until_ready()
        pid = daemon.model()["engine_pid"]
        tasks = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]
        assert {frozenset(os.sched_getaffinity(task)) for task in tasks} == {frozenset(CPUS[1:])}
        names = [device["name"] for device in daemon.get("/api/v1/devices")[1]["devices"]]
    assert names == ["cpu:0", "cpu:1"]
