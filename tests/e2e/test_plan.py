"""`hearth plan` on this machine, without a daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


def test_the_canary_is_planned_and_says_what_is_assumed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hearth_tui", "plan", "canary", "--concurrency", "2"]
    command += ["--what-if", "add npu:8GiB@1GB/s", "--state", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["plan"]
    (stage,) = found["replicas"][0]["stages"]
    assert stage["device"].startswith("cpu:")
    assert stage["measured"] is False
    assert found["tokens_per_second"] > 0
