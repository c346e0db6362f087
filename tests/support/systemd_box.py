"""SystemdBox: a whole system of its own, booted by systemd-nspawn over a pristine root; needs root.

Its limits are real: on a host with control groups of version 1 it gets subtrees of the caller's own, remounted
writable, since nspawn would make them read-only.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "init-system-helpers", "python3", "libgomp1", "libstdc++6",
    "iproute2", "ca-certificates", "procps", "curl", "bash",
)  # fmt: skip
BOOT_SECONDS = 60.0
_CGROUPS = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "pids", "devices", "cpu", "cpuacct")
_ENVIRON = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root", "TERM=dumb"]


def pristine_root(cache: Path, folder: Path) -> Path:
    """A fresh Debian 12 in `folder`, from a tar that is made once in `cache`."""
    tar = cache / "bookworm.tar"
    if not tar.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = tar.with_suffix(".new.tar")
        included = f"--include={','.join(PACKAGES)}"
        mode = ["--mode=root", "--variant=essential"]
        subprocess.run(["mmdebstrap", *mode, included, "bookworm", str(fresh)], check=True)
        fresh.replace(tar)
    folder.mkdir()
    subprocess.run(["tar", "-x", "-f", str(tar), "-C", str(folder)], check=True)
    return folder


class SystemdBox:
    """An overlay over the root, so that it may be thrown away; it outlives `reboot`."""

    def __init__(
        self, root: Path, work: Path, name: str = "hearthbox", shared: Sequence[str] = ()
    ) -> None:
        """`shared`: FOLDER:PLACE, read-only in the box."""
        self.boot_seconds = 0.0
        self._root = root
        self._work = work
        self._name = name
        self._shared = shared
        self._merged = work / "merged"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader: int | None = None
        self._limits = _own_subtrees(name)

    def __enter__(self) -> SystemdBox:
        for name in ("upper", "scratch", "merged"):
            (self._work / name).mkdir(parents=True)
        options = f"lowerdir={self._root},upperdir={self._work / 'upper'},workdir={self._work / 'scratch'}"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(self._merged)]
        subprocess.run(mount, check=True)
        (self._merged / "etc/hostname").write_text(f"{self._name}\n")
        (self._merged / "etc/machine-id").write_text("")  # not that of every box from this root
        (self._merged / "var/lib/dbus/machine-id").unlink(missing_ok=True)
        try:
            self._boot()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._halt()
        self._clean_up()

    def run(self, script: str, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the box, in all of its namespaces."""
        spaces = ["-m", "-u", "-i", "-n", "-p", "-C"]
        enter = ["nsenter", "-t", str(self._leader), *spaces, "--"]
        return subprocess.run(
            [*enter, "env", "-i", *_ENVIRON, "bash", "-c", script],
            capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def sh(self, script: str, seconds: float = 120.0) -> str:
        """What a script prints; AssertionError with all it said where it fails."""
        done = self.run(script, seconds)
        assert done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def reboot(self) -> None:
        """Power off in order, and boot again."""
        self._halt()
        self._boot()

    def _boot(self) -> None:
        began = time.monotonic()
        for folder in self._limits:
            folder.mkdir(parents=True, exist_ok=True)
        address = self._work / "notify"
        address.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(address))
            with (self._work / "console.log").open("ab") as console:
                self._process = subprocess.Popen(
                    self._command(),
                    env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(address)},
                    stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                    preexec_fn=self._join_limits, start_new_session=True,
                )  # fmt: skip
            self._await_ready(notify, began + BOOT_SECONDS)
        writable = [f"mount -o remount,rw,bind /sys/fs/cgroup/{_controller(f)}" for f in self._v1()]
        if writable:
            self.sh(" && ".join([*writable, "systemctl daemon-reexec"]))
        self.sh("systemctl is-system-running --wait || true")
        self.boot_seconds = time.monotonic() - began

    def _command(self) -> list[str]:
        return [
            "systemd-nspawn", "--quiet", f"--directory={self._merged}", f"--machine={self._name}",
            f"--hostname={self._name}", "--register=no", "--keep-unit", "--console=pipe",
            "--notify-ready=yes", "--resolv-conf=off", "--timezone=off", "--private-network",
            "--kill-signal=SIGRTMIN+3", "--system-call-filter=bpf",
            "--capability=CAP_BPF,CAP_NET_ADMIN",
            *(f"--bind-ro={each}" for each in self._shared), "--boot",
        ]  # fmt: skip

    def _join_limits(self) -> None:
        for folder in self._limits:
            (folder / "cgroup.procs").write_text("0")

    def _await_ready(self, notify: socket.socket, deadline: float) -> None:
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if not select.select([notify], [], [], 0.2)[0]:
                continue
            for line in notify.recv(4096).decode().splitlines():
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    self._leader = int(line.partition("=")[2])
                if line == "READY=1" and self._leader is not None:
                    return
        raise AssertionError(
            f"it does not boot: {(self._work / 'console.log').read_text()[-2000:]}"
        )

    def _halt(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)  # which powers the box off in order
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            if self._leader is not None:
                os.kill(
                    self._leader, signal.SIGKILL
                )  # nspawn's own end would leave the box running
            self._process.kill()
            self._process.wait()
        self._process = self._leader = None

    def _clean_up(self) -> None:
        subprocess.run(["umount", str(self._merged)], check=False)
        for folder in self._limits:
            for below, _, _ in os.walk(folder, topdown=False):
                Path(below).rmdir()
        shutil.rmtree(self._work, ignore_errors=True)

    def _v1(self) -> list[Path]:
        return [folder for folder in self._limits if _controller(folder) in _CONTROLLERS]


def _own_subtrees(name: str) -> list[Path]:
    """Below our own control groups, one for each hierarchy that the box is to be limited in."""
    if (_CGROUPS / "cgroup.controllers").exists():
        own = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2]
        return [_CGROUPS / own.lstrip("/") / name]
    found = [
        _CGROUPS / base / name for base in ("systemd", "unified") if (_CGROUPS / base).is_dir()
    ]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in _CONTROLLERS:
            found.append(_CGROUPS / controllers / path.lstrip("/") / name)
    return found


def _controller(folder: Path) -> str:
    return folder.relative_to(_CGROUPS).parts[0]
