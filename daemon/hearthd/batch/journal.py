"""Journal: the output and the errors of one batch, each line in one of them once, whatever happens.

The files are the truth: a line that stands in one of them whole is done, and after a crash nothing else
counts. Lines are appended in groups, each group on the disk before the next one; so only the last group
can be torn, and what is left of it after its first damaged line is cut off and computed again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from hearthd.batch.disk import AppendFile, Disk, DiskTrouble, trouble_of
from hearthd.batch.record import Mark, Record, encode, mark_of
from hearthd.batch.usage import Usage


@dataclass(slots=True)
class Progress:
    """What stands in the files."""

    done: set[int] = field(default_factory=set)  # numbers of the input's lines
    n_completed: int = 0
    n_failed: int = 0
    usage: Usage = field(default_factory=Usage)


class _Half:
    """One of the two files; `good_bytes` of it are whole lines on the disk."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self.path = path
        self._file: AppendFile | None = None
        self._pending: list[bytes] = []
        self._torn = False
        self.good_bytes = 0
        self.known = False  # whether it has been read

    def recover(self, prefix: str) -> list[Mark]:
        """Open it, read what is whole, and cut off the rest; raises OSError."""
        self._file = self._disk.open(self.path)
        self.good_bytes = 0
        kept: list[Mark] = []
        with self.path.open("rb") as file:
            for data in file:
                mark = mark_of(data, prefix)
                if mark is None:
                    self._torn = True
                    break
                kept.append(mark)
                self.good_bytes += len(data)
        self._mend(self._file)
        self.known = True
        return kept

    def add(self, data: bytes) -> None:
        self._pending.append(data)

    def flush(self) -> None:
        """Write what is pending; raises DiskTrouble, and then all of it is pending still."""
        if not self._pending or self._file is None:
            return
        data = b"".join(self._pending)
        try:
            self._mend(self._file)
            self._disk.check_room(self.path.parent, len(data))
            self._torn = True  # until all of it is on the disk
            self._file.write(data)
            self._file.sync()
        except OSError as error:
            raise trouble_of(error, self.path) from error
        self._torn = False
        self.good_bytes += len(data)
        self._pending.clear()

    def _mend(self, file: AppendFile) -> None:
        if self._torn:
            file.truncate(self.good_bytes)
            file.sync()
            self._torn = False

    def close(self) -> None:
        """Let go; an empty file is taken away."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def drop_if_empty(self) -> None:
        """Take it away where it has nothing in it."""
        if self.known and self.good_bytes == 0:
            self.path.unlink(missing_ok=True)


class Journal:
    """Belongs to one thread at a time; every method blocks."""

    def __init__(self, disk: Disk, output: Path, errors: Path, prefix: str) -> None:
        """`prefix`: of the ids of this batch's records."""
        self._prefix = prefix
        self._output = _Half(disk, output)
        self._errors = _Half(disk, errors)

    def recover(self) -> Progress:
        """Open both files and read what they hold; raises DiskTrouble, and can be tried again."""
        self.close()
        progress = Progress()
        for half in (self._output, self._errors):
            try:
                kept = half.recover(self._prefix)
            except OSError as error:
                raise trouble_of(error, half.path) from error
            progress.done.update(mark.number for mark in kept)
            for mark in kept:
                progress.usage = progress.usage.plus(mark.usage)
            if half is self._output:
                progress.n_completed = len(kept)
            else:
                progress.n_failed = len(kept)
        return progress

    def keep(self, records: Iterable[Record]) -> None:
        """Put records where they belong, on the disk; raises DiskTrouble.

        After that, what could not be written is tried again with the next ones: do not give them twice.
        """
        for record in records:
            (self._output if record.is_good else self._errors).add(encode(record))
        trouble: DiskTrouble | None = None
        for half in (self._output, self._errors):
            try:
                half.flush()
            except DiskTrouble as error:
                trouble = error
        if trouble is not None:
            raise trouble

    def close(self) -> None:
        """Let go of both files; idempotent."""
        with ExitStack() as stack:
            stack.callback(self._output.close)
            stack.callback(self._errors.close)

    def finish(self) -> tuple[int, int]:
        """Let go, and take empty files away; bytes of output and errors."""
        self.close()
        for half in (self._output, self._errors):
            half.drop_if_empty()
        return self._output.good_bytes, self._errors.good_bytes
