"""StateDirectory: the daemon's own directory, locked while it runs, with a note of where it listens."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hearthd.errors import AlreadyRunning, ConfigError

LOCK_NAME = "hearthd.lock"
NOTE_NAME = "hearthd.json"


class StateDirectory:
    """Made with `hold`; what is in it belongs to this process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    @contextmanager
    def hold(cls, path: Path) -> Iterator[StateDirectory]:
        """Make and lock the directory; raises ConfigError, AlreadyRunning. Blocks on the file system."""
        try:
            path.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ConfigError(f"state = {str(path)!r}: {error.strerror or error}") from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AlreadyRunning(_whose(path)) from None
            os.ftruncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
            (path / NOTE_NAME).unlink(missing_ok=True)  # of a daemon that was killed
            yield cls(path)
        finally:
            os.close(lock)

    @contextmanager
    def note(self, listen: str, socket: str) -> Iterator[None]:
        """Say in hearthd.json where the daemon listens, while it does. Blocks on the file system."""
        note = {"pid": os.getpid(), "listen": listen, "socket": socket}
        target = self.path / NOTE_NAME
        fresh = target.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(note) + b"\n")
        fresh.replace(target)
        try:
            yield
        finally:
            target.unlink(missing_ok=True)


def _whose(path: Path) -> str:
    try:
        pid = (path / LOCK_NAME).read_text().strip()
    except OSError:
        pid = ""
    return f"another hearthd ({f'pid {pid}' if pid else 'unknown pid'}) uses the state in {path}"
