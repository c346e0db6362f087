"""`hearth` and `hearthd` speak the same shapes: the real ones, with the simulated model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hearth_process import environment, hearth, start_hearth

START_SECONDS = 30.0


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    """The Unix socket of a daemon that is ready."""
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        path = str(Path(folder) / "d.sock")
        flags = [
            "--model",
            "m=sim:says=echo,latency_ms=50",
            "--listen",
            "127.0.0.1:0",
            "--state",
            f"{folder}/state",
        ]
        daemon = subprocess.Popen(
            [sys.executable, "-m", "hearthd", "--socket", path, *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**environment({}), "XDG_CONFIG_HOME": folder},
        )
        try:
            _wait_until_ready(path)
            yield path
        finally:
            daemon.terminate()
            try:
                daemon.wait(20)
            finally:
                daemon.kill()
                daemon.wait()


def _wait_until_ready(path: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        done = hearth("--socket", path, "status", "--json")
        if done.returncode == 0 and json.loads(done.stdout)["ready"]:
            return
        assert time.monotonic() < deadline, (done.stdout, done.stderr)
        time.sleep(0.2)


def test_status(socket: str) -> None:
    done = hearth("--socket", socket, "status")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert lines[2] == "ready    yes"
    assert lines[-1].split()[:4] == ["m", "ready", "0", "0"]
    assert "-" not in lines[-1].split()  # everything is known of a model that is ready


def test_models(socket: str) -> None:
    done = hearth("--socket", socket, "models")
    assert done.returncode == 0
    row = done.stdout.decode().splitlines()[-1].split()
    assert row[:2] == ["m", "ready"]
    assert "-" not in row


def test_an_answer_streamed_and_whole_is_the_same(socket: str) -> None:
    options = ["--socket", socket, "ask", "--json", "--max-tokens", "20", "--temperature", "0"]
    streamed, whole = (
        json.loads(hearth(*options, *more, "hello").stdout) for more in ([], ["--no-stream"])
    )
    assert streamed["text"] == whole["text"] == "hello"
    assert streamed["finish_reason"] == whole["finish_reason"] == "stop"
    assert streamed["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] > 0
    assert streamed["tokens_per_second"] > 0
    assert streamed["ttft_seconds"] > 0


def test_a_model_that_is_not_there(socket: str) -> None:
    done = hearth("--socket", socket, "ask", "-m", "nobody", "hello")
    assert done.returncode == 1
    assert done.stderr == b"hearth: The model 'nobody' does not exist; there are: m\n"


def test_ctrl_c_frees_the_engine(socket: str) -> None:
    with start_hearth("--socket", socket, "ask", "x" * 2000) as running:  # seconds of an answer
        assert running.stdout is not None
        assert running.stdout.read(1) == b"x"
        assert _n_running(socket) == 1
        os.kill(running.pid, signal.SIGINT)
        running.communicate(timeout=10)
    assert running.returncode == 130
    deadline = time.monotonic() + 10
    while _n_running(socket) != 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _n_running(socket: str) -> int | None:
    status = json.loads(hearth("--socket", socket, "status", "--json").stdout)
    n_running: int | None = status["models"][0]["hearth"]["n_running"]
    return n_running
