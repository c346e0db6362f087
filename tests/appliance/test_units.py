"""The units are valid, say what the daemon counts on, and leave little open; each exposure has its reason beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
MOST_EXPOSURE = 2.0


class Unit(RawConfigParser):
    """A unit file; a key that is there several times counts with its last value."""

    def __init__(self, name: str) -> None:
        super().__init__(strict=False, comment_prefixes=("#", ";"))
        self.optionxform = str  # type: ignore[assignment, method-assign]
        self.read(UNITS / name)


def test_the_service_says_what_the_daemon_counts_on() -> None:
    service = Unit("hearthd.service")["Service"]
    for key, value in {
        "Type": "notify",
        "Restart": "on-failure",
        "OOMPolicy": "continue",
        "KillMode": "mixed",
        "User": "hearth",
        "StateDirectory": "hearthd",
        "RuntimeDirectory": "hearthd",
        "RuntimeDirectoryPreserve": "yes",
        "ConfigurationDirectory": "hearthd",
        "RestartPreventExitStatus": "2",
    }.items():
        assert service[key] == value
    assert "WatchdogSec" in service


def test_the_socket_is_where_clients_look() -> None:
    socket = Unit("hearthd.socket")["Socket"]
    assert socket["ListenStream"] == "/run/hearthd/hearthd.sock"
    assert (socket["SocketMode"], socket["SocketGroup"]) == ("0660", "hearth")


def test_the_user_is_in_the_groups_of_gpus() -> None:
    lines = (UNITS / "hearthd.sysusers").read_text().splitlines()
    assert {"m hearth video", "m hearth render"} <= set(lines)


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("there is no systemd-analyze here")
    return found


def test_systemd_finds_nothing_wrong(analyze: str, tmp_path: Path) -> None:
    for name in ("hearthd.service", "hearthd.socket"):
        unit = (UNITS / name).read_text().replace("/usr/bin/hearthd", "/bin/true")
        (tmp_path / name).write_text(unit)
    files = [str(tmp_path / name) for name in ("hearthd.service", "hearthd.socket")]
    done = subprocess.run(
        [analyze, "verify", "--man=no", "--recursive-errors=no", *files],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "hearthd" not in done.stderr, done.stderr


def test_little_is_left_open_and_each_of_it_has_its_reason(analyze: str) -> None:
    service = UNITS / "hearthd.service"
    done = subprocess.run(
        [analyze, "security", "--no-pager", "--offline=true", str(service)],
        capture_output=True, text=True, timeout=60, env={"LANG": "C.UTF-8", "COLUMNS": "300"},
    )  # fmt: skip
    level = re.search(r"exposure level for hearthd.service: ([0-9.]+)", done.stdout)
    assert level is not None, done.stderr
    assert float(level[1]) <= MOST_EXPOSURE
    reasons = service.read_text()
    left_open = re.findall(r"(?m)^✗ (\w+)=(?:~?(@?\w+|AF_\S+))?", done.stdout)
    assert left_open
    for key, what in left_open:
        names = [key, *re.findall(r"@?\w+", what)]
        assert any(name in reasons for name in names), (key, what)
