"""A box found by name on a network of three hosts: namespaces on a bridge, with Avahi as the stranger."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.lan,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces are made by root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip (iproute2)"),
]
FOUND_SECONDS = GONE_SECONDS = 2.0


def run(*argv: str, check: bool = True) -> str:
    return subprocess.run(argv, check=check, capture_output=True, text=True, timeout=60).stdout


@dataclass
class Host:
    """A namespace with an address on the bridge; its processes end with it."""

    space: str
    address: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *argv: str, check: bool = True) -> str:
        return run("ip", "netns", "exec", self.space, *argv, check=check)

    def start(self, *argv: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        with Path(log or os.devnull).open("wb") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.space, *argv], stdout=out, stderr=subprocess.STDOUT
            )
        self.processes.append(process)
        return process

    def hearth(self, *argv: str, check: bool = True) -> str:
        return self.run(sys.executable, "-m", "hearth_tui", *argv, check=check)

    def boxes(self, seconds: float = 1.0) -> dict[str, dict[str, object]]:
        listed = json.loads(self.hearth("discover", "--json", "--seconds", str(seconds)))
        return {box["name"]: box for box in listed}


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Three hosts on one bridge, which nothing else is on."""
    tag = f"hl{secrets.token_hex(2)}"
    switch = f"{tag}-sw"
    hosts = [Host(f"{tag}-{i}", f"10.77.0.{i}") for i in (1, 2, 3)]
    made = [switch, *(host.space for host in hosts)]
    try:
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        for i, host in enumerate(hosts):
            run("ip", "netns", "add", host.space)
            peer = ("peer", "name", f"p{i}", "netns", switch)
            run("ip", "-n", host.space, "link", "add", "eth0", "type", "veth", *peer)
            for link in ("lo", "eth0"):
                run("ip", "-n", host.space, "link", "set", link, "up")
            run("ip", "-n", host.space, "addr", "add", f"{host.address}/24", "dev", "eth0")
            run("ip", "-n", host.space, "route", "add", "default", "dev", "eth0")
            run("ip", "-n", switch, "link", "set", f"p{i}", "master", "br0", "up")
        yield hosts
    finally:
        for process in [p for host in hosts for p in host.processes]:
            process.kill()
            process.wait()
        for space in made:
            run("ip", "netns", "del", space, check=False)


@dataclass
class Box:
    """A hearthd on one of the hosts, with a key."""

    host: Host
    folder: Path
    process: subprocess.Popen[bytes]
    key: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


def start_box(host: Host, folder: Path) -> Box:
    folder.mkdir()
    key = folder / "key"
    secret = "hearth_" + secrets.token_urlsafe(32)
    key.write_text(secret)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    config = folder / "hearthd.toml"
    config.write_text(
        f'listen = "0.0.0.0:4327"\n[lan]\nname = "Ember"\n[hardware]\ncheckup = false\n'
        f'[keys.alice]\nhash = "sha256:{digest}"\n'
    )
    process = host.start(
        sys.executable, "-m", "hearthd", "--config", str(config), "--socket", str(folder / "s"),
        "--state", str(folder / "state"), log=folder / "log",
    )  # fmt: skip
    return Box(host, folder, process, key)


def until(holds: Callable[[], bool], seconds: float = 60.0) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, "it did not come to pass"
    return time.monotonic() - began


def test_found_used_by_name_and_gone(hosts: list[Host], tmp_path: Path) -> None:
    box = start_box(hosts[0], tmp_path / "box")
    until(lambda: "announced as" in box.log)
    found = until(lambda: "Ember" in hosts[1].boxes())
    assert found < FOUND_SECONDS + 1.5, "a second of listening and a program's start are in it"
    until(lambda: hosts[1].boxes()["Ember"]["models"] == ["canary"])
    seen = hosts[1].boxes()["Ember"]
    assert seen["url"] == "http://10.77.0.1:4327"
    assert seen["needs_key"] is True
    assert seen["addresses"] == ["10.77.0.1"]
    asked = ("--box", "ember", "--api-key-file", str(box.key), "models")
    assert "canary" in hosts[1].hearth(*asked)
    box.process.send_signal(signal.SIGTERM)
    gone = until(lambda: not hosts[1].boxes(0.5), 10)
    assert gone < GONE_SECONDS + 1.5
    box.process.wait()


def test_two_of_one_name_and_one_that_is_killed(hosts: list[Host], tmp_path: Path) -> None:
    first = start_box(hosts[0], tmp_path / "first")
    until(lambda: "announced as" in first.log)
    second = start_box(hosts[1], tmp_path / "second")
    until(lambda: {"Ember", "Ember (2)"} <= hosts[2].boxes().keys())
    boxes = hosts[2].boxes()
    assert boxes["Ember"]["url"] == "http://10.77.0.1:4327"
    assert boxes["Ember (2)"]["url"] == "http://10.77.0.2:4327"
    second.process.kill()
    second.process.wait()
    with pytest.raises(subprocess.CalledProcessError) as lost:
        hosts[2].hearth("--box", "Ember (2)", "--api-key-file", str(second.key), "models")
    assert lost.value.returncode == 3
    assert len(lost.value.stderr.splitlines()) == 1
    assert "canary" in hosts[2].hearth("--box", "Ember", "--api-key-file", str(first.key), "models")


def test_a_box_that_is_not_to_be_announced(hosts: list[Host], tmp_path: Path) -> None:
    box = start_box(hosts[0], tmp_path / "box")
    config = box.folder / "hearthd.toml"
    until(lambda: "announced as" in box.log)
    config.write_text(config.read_text().replace("[lan]", "[lan]\nenabled = false"))
    box.process.send_signal(signal.SIGTERM)
    box.process.wait()
    again = hosts[0].start(
        sys.executable, "-m", "hearthd", "--config", str(config), "--socket", str(box.folder / "s"),
        "--state", str(box.folder / "state"), log=box.folder / "log2",
    )  # fmt: skip
    until(lambda: "listening on" in (box.folder / "log2").read_text())
    assert hosts[1].boxes(3.0) == {}
    again.terminate()
    again.wait()


@pytest.mark.skipif(
    shutil.which("avahi-browse") is None or shutil.which("dbus-daemon") is None,
    reason="needs avahi-daemon, avahi-browse and dbus-daemon",
)
def test_a_stranger_sees_it(hosts: list[Host], tmp_path: Path) -> None:
    stranger = hosts[2]
    script = tmp_path / "avahi.sh"
    script.write_text(
        "set -e\nmount --make-rprivate /\nmount -t tmpfs none /run\nmkdir -p /run/dbus /run/avahi-daemon\n"
        "chown avahi:avahi /run/avahi-daemon\ndbus-daemon --system --nopidfile --fork\n"
        "avahi-daemon -D --no-rlimits --no-drop-root --no-chroot\n"
        'mkfifo "$1/ask"\ntouch "$1/ready"\n'
        'while read -r kind <"$1/ask"; do avahi-browse -ptr "$kind" >"$1/answer.new" 2>&1; '
        'mv "$1/answer.new" "$1/answer"; done\n'
    )
    stranger.start(
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", str(script),
        str(tmp_path), log=tmp_path / "avahi.log",
    )  # fmt: skip
    until(lambda: (tmp_path / "ready").exists(), 20)

    def browse(kind: str) -> list[list[str]]:
        (tmp_path / "answer").unlink(missing_ok=True)
        (tmp_path / "ask").write_text(kind + "\n")
        until(lambda: (tmp_path / "answer").exists(), 20)
        lines = (tmp_path / "answer").read_text().splitlines()
        return [line.split(";") for line in lines if line.startswith("=")]

    box = start_box(hosts[0], tmp_path / "box")
    until(lambda: "announced as" in box.log)
    found = until(lambda: bool(browse("_hearth._tcp")), 20)
    assert found < FOUND_SECONDS + 1.0
    for kind in ("_hearth._tcp", "_openai._tcp", "_http._tcp"):
        (line,) = browse(kind)
        assert line[3] == "Ember"
        assert line[7:9] == ["10.77.0.1", "4327"]
        assert '"auth=key"' in line[9]
    until(lambda: '"models=canary"' in browse("_hearth._tcp")[0][9], 60)
    box.process.send_signal(signal.SIGTERM)
    gone = until(lambda: not browse("_hearth._tcp"), 10)
    assert gone < GONE_SECONDS + 1.0
