"""UmlSystem: a Debian on a kernel of its own, User-Mode Linux, whose control groups are of version 2; needs root, no KVM.

Where the host has control groups of version 1, a container has no others; this has, and the memory controller with them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

KERNEL = "linux.uml"
"""What the package user-mode-linux installs."""
_MEMORY = "1200M"
_DISK = "2200M"
_DONE = "the script ended with"
_UNIT = f"""
[Unit]
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/bash -c '/script >/dev/console 2>&1; echo "{_DONE} $$?" >/dev/console; systemctl poweroff -ff'
"""
_ENVIRON = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}


class UmlSystem:
    """A root that is prepared while nothing runs in it, and then booted once from an image of it."""

    def __init__(self, root: Path, work: Path) -> None:
        """`root` is this system's own, and is written to; `work` holds the image and what the console says."""
        self._root = root
        self._work = work

    def write(self, place: str, text: str) -> None:
        """Put a file there, with the folders above it."""
        file = self._root / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def install(self, package: Path) -> None:
        """A .deb, whose services start when this boots."""
        shutil.copy(package, self._root / "package.deb")
        dpkg = ["dpkg", "--force-unsafe-io", "-i", "/package.deb"]
        subprocess.run(["chroot", str(self._root), *dpkg], check=True, env=_ENVIRON)
        (self._root / "package.deb").unlink()

    def run(self, script: str, seconds: float) -> str:
        """Boot, run a bash script beside what is installed, and halt: what it prints; AssertionError where it fails."""
        self.write("script", script)
        (self._root / "script").chmod(0o755)
        self.write("etc/fstab", "")  # no other disk is waited for
        self.write("etc/systemd/system/script.service", _UNIT)
        wanted = self._root / "etc/systemd/system/multi-user.target.wants"
        wanted.mkdir(exist_ok=True)
        (wanted / "script.service").symlink_to("../script.service")
        said = self._boot(seconds)
        assert f"{_DONE} 0" in said, said[-6000:]
        return said

    def _boot(self, seconds: float) -> str:
        image, console = self._work / "root.img", self._work / "console.log"
        make = ["mkfs.ext4", "-q", "-F", "-d", str(self._root), str(image), _DISK]
        subprocess.run(make, check=True)
        command = [
            KERNEL, f"ubd0={image}", "root=/dev/ubda", "rw", f"mem={_MEMORY}",
            "con=null", "con0=fd:0,fd:1", "quiet", "loglevel=3",
            "init=/lib/systemd/systemd", "systemd.unified_cgroup_hierarchy=1",
        ]  # fmt: skip
        with console.open("wb") as written:
            kernel = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=written, stderr=written,
                # Its memory is a file, and its sockets are in the home folder.
                env={"PATH": os.environ["PATH"], "HOME": str(self._work), "TMPDIR": "/dev/shm"},
                start_new_session=True,
            )  # fmt: skip
            try:
                kernel.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(kernel.pid, signal.SIGKILL)  # its processes are processes of the host
                kernel.wait()
            finally:
                image.unlink()
        return console.read_text(errors="replace").replace("\r", "")
