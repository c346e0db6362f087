"""Sockets that a service manager hands over are served on, beside those that hearthd binds itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hearthd.errors import ConfigError
from hearthd.listeners import listen
from hearthd.systemd import take_passed_sockets


@pytest.fixture
def passed(short_path: Path) -> Iterator[socket.socket]:
    """As hearthd.socket has it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_path / "passed.sock"))
        listener.listen()
        yield listener


def test_what_was_not_passed_is_bound(short_path: Path, passed: socket.socket) -> None:
    path = Path(passed.getsockname())
    with listen("127.0.0.1:0", short_path / "own.sock", [passed.dup()]) as listeners:
        assert listeners.path == path
        assert listeners.tcp.getsockname()[0] == "127.0.0.1"
        assert not (short_path / "own.sock").exists()
    assert path.exists()  # it is the manager's


def test_a_tcp_socket_may_be_passed_too(short_path: Path, passed: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        name = tcp.getsockname()
        with listen("127.0.0.1:1", short_path / "x", [tcp.dup(), passed.dup()]) as listeners:
            assert listeners.tcp.getsockname() == name


def test_two_of_a_kind_are_refused(short_path: Path, passed: socket.socket) -> None:
    with (
        pytest.raises(ConfigError, match="one TCP and one Unix socket"),
        listen("127.0.0.1:0", short_path / "x", [passed.dup(), passed.dup()]),
    ):
        pass


def test_a_socket_that_does_not_listen_is_refused(short_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        pytest.raises(ConfigError, match="does not listen"),
        listen("127.0.0.1:0", short_path / "x", [datagram.dup()]),
    ):
        pass


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "8"}]
)
def test_sockets_for_another_process_are_left_alone(environ: dict[str, str]) -> None:
    assert take_passed_sockets(environ, pid=7) == []


def test_nonsense_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="not a number"):
        take_passed_sockets({"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, pid=7)


def test_hearthd_serves_on_a_passed_socket(short_path: Path, passed: socket.socket) -> None:
    """From exec to exit, with the descriptor where systemd puts it."""
    script = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid());"
        "os.environ['LISTEN_FDS'] = '1'; os.execv(sys.executable, [sys.executable, '-m', 'hearthd', *sys.argv[2:]])"
    )
    flags = ["--listen", "127.0.0.1:0", "--state", str(short_path / "state"), "--model", "m=sim:"]
    with passed, subprocess.Popen(
        [sys.executable, "-c", script, str(passed.fileno()), *flags, "--set", "hardware.checkup=false"],
        pass_fds=(passed.fileno(),),
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    ) as process:  # fmt: skip
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(passed.getsockname())  # the backlog holds it until hearthd is there
                client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.0 200")
            note = json.loads((short_path / "state" / "hearthd.json").read_text())
            assert note["socket"] == passed.getsockname()
        finally:
            process.terminate()
        assert process.wait(20) == 0
        assert Path(passed.getsockname()).exists()
