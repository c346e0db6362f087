"""The command line itself: help, usage errors, exit statuses, and what is imported for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_box import FakeBox
from hearth_process import HEARTH, environment, hearth, start_hearth

GONE = "http://127.0.0.1:1"


def test_help_names_every_command_and_fits_a_terminal() -> None:
    done = hearth("--help")
    assert done.returncode == 0
    text = done.stdout.decode()
    for word in ("ask", "chat", "models", "status", "--url", "--socket", "HEARTH_URL", "--version"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) <= 40


@pytest.mark.parametrize("command", ["ask", "chat", "models", "status"])
def test_each_command_has_a_short_help(command: str) -> None:
    done = hearth(command, "--help")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith(f"usage: hearth {command}")
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 25


def test_version() -> None:
    done = hearth("--version")
    assert done.returncode == 0
    assert done.stdout.startswith(b"hearth 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to do"),
        (["sk"], "did you mean ask?"),
        (["--nonsense"], "--nonsense"),
        (["ask", "--nonsense", "x"], "--nonsense"),
        (["ask"], "nothing was asked"),
        (["ask", "--max-tokens", "0", "x"], "--max-tokens"),
        (["ask", "--max-tokens", "many", "x"], "--max-tokens"),
        (["ask", "--temperature", "nan", "x"], "--temperature"),
        (["ask", "--seed", str(2**64), "x"], "--seed"),
        (["models", "x"], "unrecognized"),
        (["--url", "ftp://x", "models"], "ftp://x"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], words: str) -> None:
    done = hearth(*arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    line = done.stderr.decode()
    assert line.startswith("hearth: ")
    assert line.count("\n") == 1
    assert words in line


@pytest.mark.parametrize("command", [["ask", "x"], ["chat"], ["models"], ["status"]])
def test_no_box_is_one_line_and_status_3(command: list[str]) -> None:
    done = hearth("--url", GONE, *command)
    assert done.returncode == 3
    assert done.stderr.decode().splitlines() == [
        f"hearth: no box answers at {GONE} (Connection refused); is hearthd running?"
    ]


def test_top_needs_a_terminal() -> None:
    done = hearth("--url", GONE, "top")
    assert done.returncode == 2
    assert b"needs a terminal" in done.stderr


def test_a_socket_that_is_not_there_is_named() -> None:
    done = hearth("--socket", "/nowhere/hearthd.sock", "models")
    assert done.returncode == 3
    assert b"unix:/nowhere/hearthd.sock (No such file or directory)" in done.stderr


def test_the_address_may_stand_before_or_behind_the_command(box: FakeBox) -> None:
    for arguments in (
        ["--url", box.url, "models"],
        ["models", "--url", box.url],
        ["--socket", str(box.socket), "models"],
        ["models", "--socket", str(box.socket)],
    ):
        assert hearth(*arguments).returncode == 0
    assert hearth("models", HEARTH_URL=box.url).returncode == 0
    assert hearth("models", HEARTH_SOCKET=str(box.socket)).returncode == 0


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom hearth_tui.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*({'httpx', 'rich', 'msgspec', 'asyncio'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stderr.split() == []


def test_a_reader_that_has_enough_gets_no_complaint(box: FakeBox) -> None:
    box.pieces, box.endless = ["line\n"], True
    with start_hearth("--url", box.url, "ask", "x") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b"line\n"
        running.stdout.close()
        assert running.wait(10) == 141
        assert running.stderr.read() == b""
    assert box.cancelled.wait(5)


def test_a_full_disk_is_one_line(box: FakeBox) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [HEARTH, "--url", box.url, "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            env=environment({}),
            timeout=30,
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["hearth: [Errno 28] No space left on device"]


def test_a_terminal_that_lacks_a_character(box: FakeBox) -> None:
    box.pieces = ["5 €"]
    done = hearth("--url", box.url, "ask", "x", PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stdout) == (0, b"5 ?\n")


def test_ctrl_c_cancels_the_request(box: FakeBox) -> None:
    box.endless = True
    with start_hearth("--socket", str(box.socket), "ask", "x") as running:
        assert box.streaming.wait(10)
        os.kill(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=10)
    assert running.returncode == 130
    assert errors == b""
    assert box.cancelled.wait(5)
