"""`hearthd` from exec to exit: it listens at once, keeps to itself, and ends when told."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hearthd_process import Daemon, hearthd, running

MIB = 1024 * 1024
_BODY = b'{"model": "m", "prompt": "x", "max_tokens": 2000, "ignore_eos": true, "stream": true}'
ENDLESS_STREAM = (
    b"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY
)


@pytest.fixture
def box(short_path: Path) -> Iterator[Daemon]:
    with running(
        short_path, "--model", "m=sim:latency_ms=10", "--set", "stop.drain_seconds=20"
    ) as daemon:
        yield daemon


def test_it_answers_while_models_load(short_path: Path) -> None:
    with running(short_path, "--model", "m=sim:load_seconds=20") as daemon:
        assert daemon.get("/livez") == (200, {"status": "ok"})
        times = psutil.Process(daemon.process.pid).cpu_times()
        assert times.user + times.system < 1.0  # the wall's clock counts what else runs here
        status, ready = daemon.get("/readyz")
        assert (status, ready["models"][0]["state"]) == (503, "loading")
        daemon.until(lambda: (daemon.model()["progress"] or 0) > 0.05)
        daemon.process.terminate()
        assert daemon.process.wait(5) == 0


def test_it_is_small_and_has_no_native_library(box: Daemon) -> None:
    box.until_ready()
    assert box.get("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 4})[0] == 200
    process = psutil.Process(box.process.pid)
    assert process.memory_info().rss < 120 * MIB
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert not [name for name in ("numpy", "torch", "llama", "onnx") if f"/{name}" in maps]


def test_the_log_is_json_and_says_where_it_listens(box: Daemon) -> None:
    address = box.address()
    box.until_ready()
    line = next(line for line in box.log if "listen" in line)
    assert line["listen"] == address
    assert line["socket"] == str(box.socket)
    assert {"time", "level", "logger", "message"} <= set(line)


def test_the_socket_is_for_its_group_and_the_state_for_its_owner(box: Daemon) -> None:
    box.address()
    assert box.socket.stat().st_mode & 0o777 == 0o660
    assert box.state.stat().st_mode & 0o777 == 0o750


def test_what_runs_is_finished_before_the_end(box: Daemon) -> None:
    box.until_ready()
    answers: list[tuple[int, object]] = []
    body = {"model": "m", "prompt": "x", "max_tokens": 60, "ignore_eos": True}
    client = threading.Thread(target=lambda: answers.append(box.get("/v1/completions", body)))
    client.start()
    box.until(lambda: box.model()["n_running"] == 1)
    engine = box.model()["engine_pid"]
    box.process.send_signal(signal.SIGTERM)
    assert box.process.wait(20) == 0
    client.join()
    assert answers[0][0] == 200
    assert not psutil.pid_exists(engine)
    assert not box.socket.exists()
    assert not (box.state / "hearthd.json").exists()


def test_a_client_that_goes_frees_its_slot(box: Daemon) -> None:
    box.until_ready()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(box.socket))
        client.sendall(ENDLESS_STREAM)
        box.until(lambda: box.model()["n_running"] == 1)
    box.until(lambda: box.model()["n_running"] == 0)  # the whole answer would take 20 s


def test_the_stream_of_an_engine_that_is_killed_goes_on(box: Daemon) -> None:
    box.until_ready()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(box.socket))
        client.sendall(ENDLESS_STREAM)
        box.until(lambda: box.model()["n_running"] == 1)
        os.kill(box.model()["engine_pid"], signal.SIGKILL)
        box.until(lambda: box.model()["n_restarts"] == 1)
        box.until_ready()
        client.settimeout(10)
        told = b""
        until_seconds = time.monotonic() + 1.0
        while time.monotonic() < until_seconds:  # what is said now comes from the next engine
            data = client.recv(1 << 16)
            assert data, told
            told = data
        assert b"error" not in told
        assert b'"text":' in told


def test_a_second_signal_ends_at_once(box: Daemon) -> None:
    box.until_ready()
    body = {"model": "m", "prompt": "x", "max_tokens": 2000, "ignore_eos": True}
    answers: list[tuple[int, object]] = []
    client = threading.Thread(target=lambda: answers.append(box.get("/v1/completions", body)))
    client.start()
    box.until(lambda: box.model()["n_running"] == 1)
    box.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert box.process.poll() is None
    box.process.send_signal(signal.SIGINT)
    assert box.process.wait(5) == 0
    client.join()
    assert answers[0][0] == 503


def test_a_second_daemon_leaves_the_first_alone(box: Daemon, tmp_path: Path) -> None:
    address = box.address()
    other = ["--state", str(tmp_path / "other")]
    for flags, message in (
        ([*box.flags, "--listen", "127.0.0.1:0"], f"another hearthd (pid {box.process.pid})"),
        (
            [*other, "--socket", str(box.socket), "--listen", "127.0.0.1:0"],
            "another hearthd listens",
        ),
        ([*other, "--socket", str(box.socket) + "2", "--listen", address], "listens on"),
    ):
        done = hearthd(*flags)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("hearthd: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert box.get("/livez")[0] == 200
    assert box.socket.exists()


def test_a_daemon_that_is_killed_leaves_no_engine_and_nothing_in_the_way(
    short_path: Path,
) -> None:
    with running(short_path, "--model", "m=sim:") as daemon:
        daemon.until_ready()
        engine = psutil.Process(daemon.model()["engine_pid"])
    assert _gone(engine)
    assert daemon.socket.exists()
    with running(short_path, "--model", "m=sim:") as successor:
        assert successor.get("/livez")[0] == 200
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(successor.socket))


def _gone(process: psutil.Process) -> bool:
    """Ended, or waiting for a parent that will never look."""
    try:
        process.wait(5)
    except psutil.TimeoutExpired:
        return process.status() == psutil.STATUS_ZOMBIE
    return True
