"""`hearth batch` against a real daemon with the simulated model."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_rig import line, lines, records
from hearth_process import hearth, start_hearth
from hearthd_process import running

pytestmark = pytest.mark.slow

MODEL = ("--model", "canary=sim:says=echo,latency_ms=20", "--set", "hardware.checkup=false")


@pytest.fixture(scope="module")
def socket() -> Iterator[str]:
    """The Unix socket of a daemon that is ready."""
    with (
        tempfile.TemporaryDirectory(prefix="hearth") as folder,
        running(Path(folder), *MODEL) as box,
    ):
        box.until_ready()
        yield str(box.socket)


def write(path: Path, n: int, word: str) -> Path:
    path.write_bytes(lines(*(line(f"id-{i}", f"{word} {i}", temperature=0) for i in range(n))))
    return path


def listed(socket: str) -> list[dict[str, Any]]:
    done = hearth("--socket", socket, "batch", "ls", "--json")
    assert done.returncode == 0
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_file_is_run_and_run_again(socket: str, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", 5, "once"), tmp_path / "out.jsonl"
    command = ("--socket", socket, "batch", "run", str(source), "-o", str(target))
    done = hearth(*command)
    assert done.returncode == 0, done.stderr
    assert {r["custom_id"] for r in records(target.read_bytes())} == {f"id-{i}" for i in range(5)}
    assert not (tmp_path / "out.errors.jsonl").exists()
    assert b"completed: 5 answered, 0 failed" in done.stderr
    (batch, *_) = listed(socket)
    before = target.read_bytes()
    target.unlink()
    again = hearth(*command, "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["id"] == batch["id"]
    assert b"already" in again.stderr
    assert target.read_bytes() == before
    anew = hearth(*command, "--json", "--new")
    assert json.loads(anew.stdout)["id"] != batch["id"]


def test_lines_that_fail_are_beside_the_answers(socket: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(lines(line("good", temperature=0), b"{", line("bad", model="nobody")))
    done = hearth("--socket", socket, "batch", "run", str(source), "-o", str(target))
    assert done.returncode == 1
    assert [r["custom_id"] for r in records(target.read_bytes())] == ["good"]
    failed = records((tmp_path / "out.errors.jsonl").read_bytes())
    assert {r["custom_id"] for r in failed} == {None, "bad"}


def test_ctrl_c_leaves_it_and_the_same_command_takes_it_up(socket: str, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", 300, "left"), tmp_path / "out.jsonl"
    command = ("--socket", socket, "batch", "run", str(source), "-o", str(target))
    with start_hearth(*command) as first:
        batch_id = _begun(socket)
        os.kill(first.pid, signal.SIGINT)
        _, told = first.communicate(timeout=10)
    assert first.returncode == 130
    assert f"{batch_id} goes on" in told.decode()
    assert not target.exists()
    assert json.loads(hearth("--socket", socket, "batch", "show", batch_id, "--json").stdout)[
        "status"
    ] in ("in_progress", "completed")
    done = hearth(*command)
    assert done.returncode == 0
    assert f"is {batch_id} already" in done.stderr.decode()
    assert len(records(target.read_bytes())) == 300


def test_ctrl_c_may_cancel_it(socket: str, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", 2000, "ended"), tmp_path / "out.jsonl"
    with start_hearth(
        "--socket", socket, "batch", "run", str(source), "-o", str(target), "--cancel-on-interrupt"
    ) as first:
        batch_id = _begun(socket)
        os.kill(first.pid, signal.SIGINT)
        _, told = first.communicate(timeout=10)
    assert first.returncode == 130
    assert f"{batch_id} is cancelled" in told.decode()
    shown = hearth("--socket", socket, "batch", "show", batch_id).stdout.decode()
    assert "status   cancel" in shown
    late = hearth("--socket", socket, "batch", "cancel", "batch_none")
    assert (late.returncode, late.stderr) == (1, b"hearth: There is no batch batch_none\n")


def _begun(socket: str) -> str:
    """The id of the newest batch, once it has lines that are done."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = listed(socket)
        if (
            found
            and found[0]["status"] == "in_progress"
            and found[0]["request_counts"]["completed"]
        ):
            batch_id: str = found[0]["id"]
            return batch_id
    raise AssertionError("no batch has begun")


def test_the_table(socket: str, tmp_path: Path) -> None:
    source, target = write(tmp_path / "in.jsonl", 1, "table"), tmp_path / "out.jsonl"
    hearth("--socket", socket, "batch", "run", str(source), "-o", str(target))
    done = hearth("--socket", socket, "batch", "ls", "-n", "1")
    head, row = done.stdout.decode().splitlines()
    assert head.split()[:4] == ["BATCH", "STATUS", "DONE", "FAILED"]
    assert row.split()[1:6] == ["completed", "1/1", "0", "/v1/chat/completions", "canary"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], b"-o FILE"),
        (["run", "-o", "out"], b"a FILE of requests"),
        (["run", "/nowhere/in", "-o", "out"], b"there is no such file"),
        (["show"], b"a BATCH"),
    ],
)
def test_wrong_usage(socket: str, words: list[str], told: bytes) -> None:
    done = hearth("--socket", socket, "batch", *words)
    assert done.returncode == 2
    assert told in done.stderr
