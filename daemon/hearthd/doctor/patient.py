"""Patient: the box as the checks see it; everything that they look at can be put elsewhere by a test."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hearthd.config import Config
from hearthd.doctor.account import Account
from hearthd.hardware.backend_view import PROBE_SECONDS, BackendsSilent, BackendView, probe_command
from hearthd.hardware.tree import Tree
from hearthd.state import NOTE_NAME


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that a path is on."""

    total_bytes: int
    free_bytes: int  # for those who are not root
    read_only: bool


def disk_of(path: Path) -> Disk:
    """As the kernel says it; raises OSError. Blocks."""
    found = os.statvfs(path)
    return Disk(
        found.f_frsize * found.f_blocks,
        found.f_frsize * found.f_bavail,
        bool(found.f_flag & os.ST_RDONLY),
    )


def ask_backends() -> BackendView:
    """What an engine could compute with; raises BackendsSilent. Takes seconds."""
    try:
        child = subprocess.run(
            probe_command(), capture_output=True, check=False, timeout=PROBE_SECONDS
        )
        return msgspec.json.decode(child.stdout, type=BackendView)
    except subprocess.TimeoutExpired:
        raise BackendsSilent(f"the probe was not done within {PROBE_SECONDS:g} s") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise BackendsSilent(f"the probe has failed: {error}") from error


@dataclass(frozen=True, slots=True)
class Patient:
    """One box, and the user that its daemon runs as."""

    config: Config
    account: Account
    config_error: str | None = None  # then `config` is what there is without a configuration
    config_file: Path | None = None
    is_root: bool = False  # who asks
    tree: Tree = field(default_factory=Tree)
    disk: Callable[[Path], Disk] = disk_of
    backends: Callable[[], BackendView] = ask_backends
    unix_now: Callable[[], float] = time.time

    @property
    def state(self) -> Path:
        """The state directory."""
        return Path(self.config.state)

    @property
    def is_service(self) -> bool:
        """Whether systemd runs the daemon here."""
        return self.tree.exists("etc/systemd/system/hearthd.service") or self.tree.exists(
            "usr/lib/systemd/system/hearthd.service"
        )

    def daemon_pid(self) -> int | None:
        """Of the daemon that runs on this state directory; None where none does, or that cannot be told."""
        try:
            note = msgspec.json.decode((self.state / NOTE_NAME).read_bytes(), type=_Note)
        except (OSError, msgspec.MsgspecError):
            return None
        return note.pid if self.tree.exists(f"proc/{note.pid}") else None

    def command(self, *words: str | Path) -> str:
        """A line for a shell, with sudo where who asks is not root."""
        line = shlex.join(map(str, words))
        return line if self.is_root else f"sudo {line}"

    def restart(self) -> str:
        """How the daemon is started again."""
        return self.command("systemctl", "restart", "hearthd")


class _Note(msgspec.Struct, frozen=True):
    pid: int
