"""The package on a real systemd, from its installation to its purge: `make test-boot` (opt-in: marker `boot`).

The tests are one life, in this order; each stands on what those before it left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from systemd_box import SystemdBox, pristine_root

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth/boot"
NEXT = "99.0"
SLOW = '[models.canary]\npath = "canary"\n[models.slow]\npath = "sim:latency_ms=20"\n'
INSTALL = "DEBIAN_FRONTEND=noninteractive dpkg --force-unsafe-io --force-confold -i"
QUESTION = {
    "model": "canary",
    "temperature": 0,
    "messages": [{"role": "user", "content": "Repeat: hello 42"}],
}


class Life:
    """What the tests ask of the box."""

    def __init__(self, box: SystemdBox, package: str) -> None:
        self.box = box
        self.package = package
        self.key = ""

    def show(self, name: str, unit: str = "hearthd") -> str:
        return self.box.sh(f"systemctl show {unit} -P {name}")

    def pid(self) -> int:
        return int(self.show("MainPID"))

    def ask(self, where: str = "http://127.0.0.1:4327", more: str = "", who: str = "") -> str:
        """The canary's answer, over HTTP, as a user or as root."""
        body = json.dumps(QUESTION)
        asked = self.box.sh(
            f"{who} curl -sS --max-time 30 {more} {where}/v1/chat/completions -d '{body}'"
        )
        return str(json.loads(asked)["choices"][0]["message"]["content"]).strip()

    def until(self, holds: Callable[[], bool], seconds: float = 60.0) -> float:
        """Wait, and say how long that took; fails with the journal."""
        began = time.monotonic()
        while not holds():
            if time.monotonic() > began + seconds:
                pytest.fail(
                    self.box.sh("systemctl status hearthd; journalctl -u hearthd -n 40; true")
                )
            time.sleep(0.05)
        return time.monotonic() - began

    def until_ready(self) -> float:
        ready = "curl -sf -o /dev/null http://127.0.0.1:4327/readyz"
        return self.until(lambda: self.box.run(ready).returncode == 0)

    def journal(self) -> str:
        return self.box.sh("journalctl -u hearthd -o cat --no-pager")


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    if os.getuid() != 0 or shutil.which("systemd-nspawn") is None:
        pytest.skip("needs root and systemd-nspawn (apt-get install systemd-container)")
    packages = sorted((ROOT / "dist").glob("hearthd_*_amd64.deb"), key=lambda p: p.stat().st_mtime)
    if not packages:
        pytest.skip("there is no package: make deb")
    folder = tmp_path_factory.mktemp("boot")
    (folder / "dist").mkdir()
    shutil.copy(packages[-1], folder / "dist/first.deb")
    repacked(folder / "dist/first.deb", folder)
    root = pristine_root(CACHE, folder / "root")
    with SystemdBox(root, folder / "box", shared=[f"{folder / 'dist'}:/dist"]) as box:
        figure("boot", box.boot_seconds)
        yield Life(box, packages[-1].name)
    shutil.rmtree(folder, ignore_errors=True)


def repacked(package: Path, folder: Path) -> None:
    """The same package as a later version, which says so when it is asked."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-R", str(package), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^Version: .*", f"Version: {NEXT}", control.read_text()))
    (init,) = tree.glob("usr/lib/hearthd/venv/lib/python3*/site-packages/hearthd/__init__.py")
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{NEXT}"', init.read_text()))
    for compiled in (init.parent / "__pycache__").glob("__init__.*.pyc"):
        compiled.unlink()
    target = package.with_name("next.deb")
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "-b", str(tree), str(target)], check=True)
    shutil.rmtree(tree)


def figure(what: str, seconds: float) -> None:
    print(f"  {what}: {seconds:.1f} s")


def test_the_package_enables_and_starts_the_daemon(life: Life) -> None:
    began = time.monotonic()
    said = life.box.sh(f"{INSTALL} /dist/first.deb 2>&1")
    figure("install", time.monotonic() - began)
    assert life.show("ActiveState") == "active", said
    assert life.show("UnitFileState") == life.show("UnitFileState", "hearthd.socket") == "enabled"
    figure("first answer after that", life.until_ready())
    life.until(lambda: life.show("StatusText") == "ready: 1 model")
    assert life.box.sh("id -nG hearth") == "hearth video render"
    modes = life.box.sh(
        "stat -c '%n %a %U %G' /etc/hearthd /etc/hearthd/* /var/lib/hearthd /run/hearthd/*.sock"
    )
    assert modes.splitlines() == [
        "/etc/hearthd 750 root hearth",
        "/etc/hearthd/conf.d 755 root root",
        "/etc/hearthd/hearthd.toml 640 root hearth",
        "/var/lib/hearthd 750 hearth hearth",
        "/run/hearthd/hearthd.sock 660 hearth hearth",
    ]


def test_it_answers_over_tcp_and_over_its_socket(life: Life) -> None:
    assert life.ask() == "hello 42"
    local = ("http://localhost", "--unix-socket /run/hearthd/hearthd.sock")
    assert life.ask(*local) == "hello 42"
    life.box.sh("useradd member -G hearth && useradd stranger")
    assert life.ask(*local, who="runuser -u member --") == "hello 42"
    refused = life.box.run(f"runuser -u stranger -- curl -sS {local[1]} {local[0]}/livez")
    assert "Permission denied" in refused.stderr or refused.returncode == 7
    assert (
        life.box.sh("runuser -u member -- hearth ask --temperature 0 'Repeat: hello 42'")
        == "hello 42"
    )


def test_the_kernels_of_this_processor_are_picked(life: Life) -> None:
    maps = life.box.sh(
        "cat /proc/$(pgrep -f hearthd.engine | head -1)/maps | grep -o 'libggml-cpu-[a-z0-9]*' | sort -u"
    )
    print(f"  kernels: {maps}")
    flags = Path("/proc/cpuinfo").read_text()
    assert maps.count("libggml-cpu-") == 1
    assert ("avx2" in flags) == (
        maps.removeprefix("libggml-cpu-")
        not in ("x64", "sse42", "sandybridge", "ivybridge", "piledriver")
    )


def test_its_units_are_tight_and_valid(life: Life) -> None:
    told = life.box.sh("systemd-analyze security hearthd.service --no-pager | tail -1")
    print(f"  {told}")
    assert float(re.findall(r"level for hearthd.service: ([0-9.]+)", told)[0]) <= 2.0
    life.box.sh("systemd-analyze verify --man=no hearthd.service hearthd.socket")
    status = life.box.sh(f"cat /proc/{life.pid()}/status")
    for line in ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert line in status
    assert "hearthd.service: Unknown" not in life.box.sh("journalctl -b --no-pager")
    loud = [line for line in life.journal().splitlines() if '"level":"warning"' in line]
    assert loud == []  # what the sandbox forbids would be told


def test_a_daemon_that_is_killed_is_started_again(life: Life) -> None:
    pid = life.pid()
    life.box.sh("systemctl kill -s KILL --kill-whom=main hearthd")
    life.until(lambda: life.pid() not in (0, pid))
    figure("ready after kill -9", life.until_ready())
    assert life.ask() == "hello 42"
    assert life.show("NRestarts") == "1"


def test_an_engine_that_is_killed_does_not_end_the_daemon(life: Life) -> None:
    pid = life.pid()
    life.box.sh("pkill -KILL -f 'hearthd[.]engine --fd'")
    life.until_ready()
    assert life.ask() == "hello 42"
    assert life.pid() == pid


def test_a_loop_that_stands_still_is_ended_by_the_watchdog(life: Life) -> None:
    life.box.sh(
        "mkdir -p /run/systemd/system/hearthd.service.d; "
        "printf '[Service]\\nWatchdogSec=3s\\n' > /run/systemd/system/hearthd.service.d/quick.conf; "
        "systemctl daemon-reload; systemctl restart hearthd"
    )
    life.until_ready()
    time.sleep(4)  # longer than the watchdog waits: it is fed
    pid, n_restarts = life.pid(), int(life.show("NRestarts"))
    assert n_restarts == 0
    began = time.monotonic()
    life.box.sh(f"kill -STOP {pid}")
    life.until(lambda: life.pid() not in (0, pid))
    life.until_ready()
    figure("ready after a loop that stands still (WatchdogSec=3s)", time.monotonic() - began)
    assert life.ask() == "hello 42"
    assert int(life.show("NRestarts")) == 1
    assert "Watchdog timeout" in life.journal()
    assert "Fatal Python error: Aborted" in life.journal()  # and where it stood
    life.box.sh("rm -r /run/systemd/system/hearthd.service.d; systemctl daemon-reload")


def test_a_good_configuration_is_reloaded_and_a_bad_one_refused(life: Life) -> None:
    pid = life.pid()
    life.box.sh(f"printf '{SLOW}' > /etc/hearthd/conf.d/slow.toml; systemctl reload hearthd")
    life.until(lambda: life.show("StatusText") == "ready: 2 models")
    life.box.sh("printf '[stop]\\ndrain_second = 1\\n' > /etc/hearthd/conf.d/bad.toml")
    assert life.box.run("systemctl reload hearthd").returncode != 0
    life.until(lambda: "reload refused" in life.show("StatusText"))
    status = life.box.sh("systemctl status hearthd --no-pager")
    assert "drain_seconds" in status  # what was meant
    assert "Active: active (running)" in status
    assert "the new configuration is refused" in life.journal()
    assert life.ask() == "hello 42"
    life.box.sh("rm /etc/hearthd/conf.d/bad.toml; systemctl reload hearthd")
    life.until(lambda: life.show("StatusText") == "ready: 2 models")
    assert life.pid() == pid


def test_an_upgrade_drains_and_keeps_state_and_configuration(life: Life) -> None:
    life.key = json.loads(life.box.sh("hearth keys add kitchen --json"))["key"]
    life.box.sh("echo '# ours' >> /etc/hearthd/hearthd.toml")
    answers: list[str] = []
    body = json.dumps({"model": "slow", "prompt": "x", "max_tokens": 150, "ignore_eos": True})
    client = threading.Thread(
        target=lambda: answers.append(
            life.box.sh(f"curl -sS --max-time 60 http://127.0.0.1:4327/v1/completions -d '{body}'")
        )
    )
    client.start()
    life.until(lambda: '"n_running":1' in life.box.sh("curl -s http://127.0.0.1:4327/v1/models"))
    began = time.monotonic()
    life.box.sh(f"{INSTALL} /dist/next.deb 2>&1")
    figure("upgrade, with a request of 3 s to finish first", time.monotonic() - began)
    client.join()
    assert json.loads(answers[0])["choices"][0]["finish_reason"] == "length"
    life.until_ready()
    assert life.box.sh("hearthd --version") == f"hearthd {NEXT}"
    assert NEXT in life.box.sh("curl -sI http://127.0.0.1:4327/livez; hearth status")
    assert "# ours" in life.box.sh("cat /etc/hearthd/hearthd.toml")
    assert life.ask(more=f"-H 'Authorization: Bearer {life.key}'") == "hello 42"
    assert "kitchen" in life.box.sh("hearth keys ls")
    life.until(lambda: life.show("StatusText") == "ready: 2 models")


def test_a_reboot_starts_it_by_itself(life: Life) -> None:
    life.box.reboot()
    figure("boot with it", life.box.boot_seconds)
    figure("ready after that", life.until_ready())
    assert life.ask(more=f"-H 'Authorization: Bearer {life.key}'") == "hello 42"
    assert life.box.sh("systemctl --failed --no-legend") == ""


def test_a_socket_alone_starts_the_daemon(life: Life) -> None:
    life.box.sh("systemctl stop hearthd.service 2>/dev/null; systemctl start hearthd.socket")
    assert life.show("ActiveState") == "inactive"
    assert life.ask("http://localhost", "--unix-socket /run/hearthd/hearthd.sock") == "hello 42"
    assert life.show("ActiveState") == "active"
    life.box.sh(
        "systemctl stop hearthd.socket hearthd; systemctl mask --runtime hearthd.socket; systemctl start hearthd"
    )
    life.until_ready()
    assert life.ask("http://localhost", "--unix-socket /run/hearthd/hearthd.sock") == "hello 42"
    life.box.sh("systemctl unmask --runtime hearthd.socket; systemctl restart hearthd")


def test_removing_it_keeps_what_is_the_users(life: Life) -> None:
    life.box.sh("dpkg -r hearthd 2>&1")
    assert life.show("ActiveState") == "inactive"
    assert life.box.sh("cat /etc/hearthd/hearthd.toml").endswith("# ours")
    life.box.sh("test -e /var/lib/hearthd/access.db && test ! -e /usr/lib/hearthd")


def test_purging_it_leaves_nothing(life: Life) -> None:
    began = time.monotonic()
    life.box.sh(f"{INSTALL} /dist/next.deb 2>&1")
    life.until_ready()
    life.box.sh("dpkg -P hearthd 2>&1")
    figure("installed again, and purged", time.monotonic() - began)
    left = life.box.sh(
        "find / -xdev -name '*hearth*' -not -path '/proc/*' -not -path '/var/log/journal/*' -not -path '/sys/*'"
    )
    assert left == ""
    assert life.box.sh("systemctl list-unit-files 'hearth*' --no-legend || true") == ""
    assert life.box.sh("systemctl --failed --no-legend") == ""
    assert life.box.sh("pgrep -c hearth || true") == "0"
