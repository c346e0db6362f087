"""PrefixDisk: a folder of saved prefixes, written and read in threads of its own."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hearthd.engine.prefixes.file import (
    BadFile,
    SavedPrefix,
    read_hashes,
    read_prefix,
    write_prefix,
)
from hearthd.engine.prefixes.index import PrefixIndex

log = logging.getLogger(__name__)

SUFFIX = ".prefix"
UNFINISHED = ".new"
KEEP_FREE_BYTES = 256 << 20
"""Of the file system, whatever the budget."""
REST_SECONDS = 300.0
"""After a write that failed, before the next is tried."""


@dataclass(frozen=True, slots=True, eq=False)
class FileEntry:
    """One file."""

    path: Path
    hashes: tuple[bytes, ...]
    n_bytes: int


class PrefixDisk:
    """Owns the folder; what is in it that is foreign or damaged is deleted when it is found."""

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        budget_bytes: int,
        *,
        keep_free_bytes: int = KEEP_FREE_BYTES,
    ) -> None:
        """Look through the folder, which is made where it is not there; raises OSError."""
        self._folder = folder
        self._fingerprint = fingerprint
        self._keep_free_bytes = keep_free_bytes
        self._index: PrefixIndex[FileEntry] = PrefixIndex(budget_bytes)
        self._lock = threading.Lock()  # of the index
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="prefix-writer")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="prefix-reader")
        self._writing: Future[None] | None = None
        self._rest_until = 0.0
        self._has_warned = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # whoever made it, and under whatever umask
        self._look_through()

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        return self._index.n_bytes

    @property
    def is_writing(self) -> bool:
        """Whether a write is under way."""
        return self._writing is not None and not self._writing.done()

    @property
    def is_resting(self) -> bool:
        """Whether no write should be tried yet, because the last one failed."""
        return time.monotonic() < self._rest_until

    def n_covered(self, hashes: Sequence[bytes]) -> int:
        """Blocks of a prefix that a file holds."""
        with self._lock:
            return self._index.n_covered(hashes)

    def write(self, saved: SavedPrefix) -> Future[None]:
        """Begin to write, after what is written already; what fails is logged."""
        self._writing = self._writer.submit(self._write, saved)
        return self._writing

    def fetch(self, hashes: Sequence[bytes], deliver: Callable[[SavedPrefix | None], None]) -> None:
        """Read the file that holds most of a prefix; `deliver` is called from another thread."""
        self._reader.submit(self._read, tuple(hashes), deliver)

    def close(self) -> None:
        """Begin nothing new; a write under way is finished."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(wait=True, cancel_futures=True)

    # --- files ---------------------------------------------------------------------------------

    def _look_through(self) -> None:
        entries: list[tuple[float, FileEntry]] = []
        for path in self._folder.iterdir():
            if path.suffix == UNFINISHED:
                path.unlink(missing_ok=True)
            elif path.suffix == SUFFIX:
                try:
                    status = path.stat()
                    hashes = read_hashes(path, self._fingerprint)
                except BadFile as bad:
                    self._delete(path, str(bad))
                    continue
                entries.append((status.st_mtime, FileEntry(path, hashes, status.st_size)))
        for _, entry in sorted(entries, key=lambda dated: dated[0]):
            for gone in self._index.add(entry):
                gone.path.unlink(missing_ok=True)

    def _write(self, saved: SavedPrefix) -> None:
        path = self._folder / (saved.hashes[-1].hex() + SUFFIX)
        fresh = path.with_suffix(UNFINISHED)
        try:
            self._make_room(saved)
            with _create(fresh) as file:
                write_prefix(file, saved, self._fingerprint)
                file.flush()
                os.fsync(file.fileno())
            n_bytes = fresh.stat().st_size
            fresh.replace(path)
            _sync_folder(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            self._rest(error)
            return
        with self._lock:
            gone = self._index.add(FileEntry(path, saved.hashes, n_bytes))
        for other in gone:
            if other.path != path:
                other.path.unlink(missing_ok=True)
        self._has_warned = False

    def _make_room(self, saved: SavedPrefix) -> None:
        """Delete what the budget has no room for beside a new file; raises OSError for a full disk."""
        with self._lock:
            gone = self._index.make_room(saved.hashes, saved.n_bytes)
        for entry in gone:
            entry.path.unlink(missing_ok=True)
        free = shutil.disk_usage(self._folder).free
        if free - saved.n_bytes < self._keep_free_bytes:
            raise OSError(errno.ENOSPC, f"only {free >> 20} MiB are free")

    def _rest(self, error: OSError) -> None:
        self._rest_until = time.monotonic() + REST_SECONDS
        if not self._has_warned:
            self._has_warned = True
            log.warning("prefixes are not saved to %s for now: %s", self._folder, error)

    def _read(
        self, hashes: tuple[bytes, ...], deliver: Callable[[SavedPrefix | None], None]
    ) -> None:
        with self._lock:
            found = self._index.longest(hashes)
        deliver(None if found is None else self._load(found[0]))

    def _load(self, entry: FileEntry) -> SavedPrefix | None:
        try:
            saved = read_prefix(entry.path, self._fingerprint)
            os.utime(entry.path)  # the order of use outlives the process
        except (BadFile, OSError) as bad:
            with self._lock:
                self._index.discard(entry)
            self._delete(entry.path, str(bad))
            return None
        return saved

    def forget(self, hashes: Sequence[bytes]) -> None:
        """Delete the file with just these blocks: its stages would not have it."""
        with self._lock:
            found = self._index.get(hashes)
            if found is not None:
                self._index.discard(found)
        if found is not None:
            self._delete(found.path, "a stage refused it")

    @staticmethod
    def _delete(path: Path, why: str) -> None:
        log.warning("the saved prefix %s is deleted: %s", path, why)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("it could not be deleted: %s", error)


def _create(path: Path) -> BinaryIO:
    """A file that only its owner reads: prompts can be told from it."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
