"""`hearthd selftest` and `calibrate` on this machine, and a daemon that heeds what was found out."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hearthd_process import hearthd, running

from hearthd.hardware.checks import PairReport
from hearthd.hardware.profiles import Profiles

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


def test_every_backend_here_passes_within_a_minute(tmp_path: Path) -> None:
    began = time.monotonic()
    done = hearthd("selftest", "--json", "--state", str(tmp_path / "state"))
    assert time.monotonic() - began < 60
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    outcomes = {report["backend"]: report["outcome"] for report in found["reports"]}
    assert outcomes["gguf"] == "passed"
    assert outcomes["sim"] == "unsupported"
    assert "failed" not in outcomes.values()
    assert (tmp_path / "state" / "devices.db").exists()


def test_hearth_runs_it_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hearth_tui", "selftest", "--state", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "cpu:0 with gguf: passed" in done.stdout
    assert "10 exact answers" in done.stdout


def test_a_pair_in_quarantine_gets_no_model(short_path: Path) -> None:
    state = short_path / "state"
    bad = PairReport(
        device="cpu:0", identity="node:0", backend="gguf", backend_device="cpu:0",
        version=_version_here(), outcome="failed", reason="it counts wrong", remedy="mend it",
    )  # fmt: skip

    async def put() -> None:
        profiles = Profiles(state)
        await profiles.save(bad)
        await profiles.close()

    asyncio.run(put())
    asked = ["--set", "models.asked.path=builtin:canary", "--set", "models.asked.backend=gguf"]
    free = ["--set", "models.free.path=builtin:canary"]
    with running(short_path, *asked, *free) as daemon:
        daemon.until(lambda: daemon.model("asked")["state"] == "failed")
        daemon.until(lambda: daemon.model("free")["state"] == "ready")
        assert daemon.model("asked")["error"] == (
            "backend gguf on cpu:0 is in quarantine: it counts wrong; mend it"
        )
        assert daemon.model("free")["backend"] == "onnx"
        status, found = daemon.get("/api/v1/devices")
        assert (status, found["checks"][0]["outcome"]) == (200, "failed")


def _version_here() -> str:
    output = subprocess.run(
        [sys.executable, "-m", "hearthd.engine", "--probe"], check=True, capture_output=True
    ).stdout
    return f"no driver, {json.loads(output)['versions']['gguf']}"
