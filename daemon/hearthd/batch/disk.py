"""Disk: what batches do to files; every write says how it went wrong in a word that can be acted on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final, Literal, TypeAlias

Trouble: TypeAlias = Literal["full", "io"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class DiskTrouble(Exception):
    """Nothing was written; it may pass."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble: Trouble = trouble


def trouble_of(error: OSError, path: Path) -> DiskTrouble:
    """The system's error as ours. Pure."""
    trouble: Trouble = "full" if error.errno in _FULL else "io"
    what = "the disk is full" if trouble == "full" else error.strerror or str(error)
    return DiskTrouble(trouble, f"{path.name}: {what}")


class AppendFile:
    """A file that grows; every method blocks and raises OSError."""

    def __init__(self, path: Path) -> None:
        """Opens it, or makes it."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, data: bytes) -> None:
        """Append all of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def sync(self) -> None:
        """What was written survives a power cut."""
        os.fsync(self._fd)

    def truncate(self, n_bytes: int) -> None:
        """Cut it to its first bytes."""
        os.ftruncate(self._fd, n_bytes)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)


class Disk:
    """The real one; blocks."""

    def __init__(self, reserve_bytes: int = 0) -> None:
        """`reserve_bytes`: that are left free for others; may change at any time."""
        self.reserve_bytes = reserve_bytes

    def open(self, path: Path) -> AppendFile:
        """A file to append to, which is there after a power cut; raises OSError."""
        fresh = not path.exists()
        file = AppendFile(path)
        if fresh:
            self.sync_folder(path.parent)
        return file

    def check_room(self, folder: Path, n_bytes: int) -> None:
        """Raise DiskTrouble where so many bytes would not leave the reserve free."""
        reserve_bytes = self.reserve_bytes
        if not reserve_bytes:
            return
        found = os.statvfs(folder)
        free_bytes = found.f_bavail * found.f_frsize
        if free_bytes < reserve_bytes + n_bytes:
            raise DiskTrouble(
                "full",
                f"the disk is nearly full: {free_bytes} bytes are free, and batch.reserve keeps "
                f"{reserve_bytes} of them for others",
            )

    def sync_folder(self, folder: Path) -> None:
        """What is in a folder is there after a power cut; raises OSError."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
