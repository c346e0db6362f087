"""`hearth devices`: a table for people, the box's own JSON for programs."""

from __future__ import annotations

import json

import pytest
from fake_box import FakeBox

from hearth_tui.cli import main

GIB = 1 << 30
CPU = {
    "name": "cpu:0", "kind": "cpu", "description": "Some CPU", "state": "ready", "problem": None,
    "total_bytes": 32 * GIB, "unified": False, "backends": {"gguf": "cpu:0", "onnx": "cpu:0"},
    "cpu": {"cores": 8, "fast_cores": 6, "isa": ["fma", "avx2"], "quota_cpus": 3.5},
    "reading": {"free_bytes": 24 * GIB},
}  # fmt: skip
CARD = {
    "name": "cuda:0", "kind": "gpu", "description": "Card \x1b[31m", "state": "silent",
    "problem": "its driver\nhangs", "total_bytes": 24 * GIB, "backends": {},
    "gpu": {"capability": "8.9"}, "driver": "nvidia 550",
    "reading": {"temperature_celsius": 61.2, "power_watts": 123.4, "power_limit_watts": 450},
    "of a newer box": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(box: FakeBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_SOCKET", str(box.socket))
    box.devices = {
        "devices": [CPU, CARD],
        "problems": ["nvml: no"],
        "absent_backends": {"cuda": "not installed"},
        "checks": [
            {"device": "cpu:0", "backend": "gguf", "outcome": "passed", "checks": []},
            {
                "device": "cpu:0",
                "backend": "onnx",
                "outcome": "failed",
                "reason": "r",
                "remedy": "m",
            },
        ],
    }


def test_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        "cpu:0 ready 24 GiB 32 GiB - - gguf, onnx "
        "Some CPU, 8 cores, 6 of them fast, quota 3.5, avx2",
        "cuda:0 silent - 24 GiB 61°C 123/450 W - Card [31m, 8.9, nvidia 550",
        "cuda:0: its driver hangs",
        "cpu:0 with onnx: in quarantine: r; m",
        "nvml: no",
        "no backend cuda: not installed",
    ]


def test_as_json_with_what_this_program_does_not_know(
    box: FakeBox, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == box.devices


def test_a_box_without_devices(box: FakeBox, capsys: pytest.CaptureFixture[str]) -> None:
    box.devices = {"devices": []}
    assert main(["devices"]) == 0
    assert "no devices" in capsys.readouterr().err
