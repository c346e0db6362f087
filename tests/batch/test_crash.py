"""The files of a batch after a crash: at every byte, at every step, with what a disk does to what was not synced."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from batch_rig import records
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthd.batch.batch import Fault
from hearthd.batch.disk import AppendFile, Disk, DiskTrouble
from hearthd.batch.journal import Journal
from hearthd.batch.record import Record, answered, encode, unanswered

PREFIX = "batch_req_0123_"


def record(number: int) -> Record:
    """Every third is an error; lengths differ, and some letters have several bytes."""
    name = f"id-{number}"
    if number % 3 == 0:
        return unanswered(PREFIX, number, name, Fault("batch_expired", "too late"))
    body = b'{"text": "%s", "usage": {"prompt_tokens": 2, "completion_tokens": 3}}'
    text = "é🙂 " * (number * 7919 % 13)
    return answered(PREFIX, number, name, 200, name, body.replace(b"%s", text.encode()))


class LazyFile(AppendFile):
    """Says that all is on the disk; it is fast."""

    def sync(self) -> None:
        pass


class LazyDisk(Disk):
    def open(self, path: Path) -> AppendFile:
        return LazyFile(path)


def journal(folder: Path, disk: Disk | None = None) -> Journal:
    return Journal(disk or LazyDisk(), folder / "output", folder / "errors", PREFIX)


def standing(folder: Path) -> list[str]:
    """The custom_ids in both files, each of which must be whole."""
    found: list[Any] = []
    for name in ("output", "errors"):
        path = folder / name
        if path.exists():
            data = path.read_bytes()
            assert data.endswith(b"\n") or not data
            found += records(data)
    return sorted(entry["custom_id"] for entry in found)


def test_cut_at_every_byte(tmp_path: Path) -> None:
    numbers = [1, 2, 4, 5]
    data = b"".join(encode(record(number)) for number in numbers)
    ends = [0]
    for number in numbers:
        ends.append(ends[-1] + len(encode(record(number))))
    for n_bytes in range(len(data) + 1):
        (tmp_path / "output").write_bytes(data[:n_bytes])
        cut = journal(tmp_path)
        progress = cut.recover()
        n_whole = sum(end <= n_bytes for end in ends) - 1
        assert progress.done == set(numbers[:n_whole])
        assert progress.n_completed == n_whole
        assert (progress.usage.n_prompt, progress.usage.n_output) == (2 * n_whole, 3 * n_whole)
        cut.keep([record(number) for number in numbers if number not in progress.done])
        cut.close()
        assert (tmp_path / "output").read_bytes() == data


@pytest.mark.parametrize(
    "tail",
    [b"\0" * 64, b"\0" * 20 + b"\n", b"{}\n", b'{"id": "batch_req_9999_1"}\n', b"\xff\n", b'"x"\n'],
)
def test_what_is_no_record_of_this_batch_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    good = encode(record(1))
    (tmp_path / "output").write_bytes(good + tail + encode(record(2)))
    cut = journal(tmp_path)
    assert cut.recover().done == {1}
    cut.close()
    assert (tmp_path / "output").read_bytes() == good


class Crash(BaseException):
    """The process is gone, at once."""


class CrashingFile(AppendFile):
    """Loses power at some step; what was not synced by then is damaged in any way."""

    def __init__(self, path: Path, disk: CrashingDisk) -> None:
        super().__init__(path)
        self.disk = disk

    def write(self, data: bytes) -> None:
        if self.disk.is_last_step():
            super().write(data[: self.disk.rng.randrange(len(data) + 1)])
            self.disk.crash()
        if self.disk.is_full():
            super().write(data[: self.disk.rng.randrange(len(data))])
            raise OSError(28, "No space left on device")
        super().write(data)

    def sync(self) -> None:
        if self.disk.is_last_step():
            self.disk.crash()
        self.disk.synced[self.path] = self.path.stat().st_size

    def truncate(self, n_bytes: int) -> None:
        if self.disk.is_last_step():
            self.disk.crash()
        super().truncate(n_bytes)


class CrashingDisk(Disk):
    """Crashes after so many steps; may be full at some of them."""

    def __init__(self, rng: random.Random, n_steps: int, full_share: float) -> None:
        super().__init__()
        self.rng = rng
        self.n_steps = n_steps
        self.full_share = full_share
        self.synced: dict[Path, int] = {}

    def open(self, path: Path) -> AppendFile:
        file = CrashingFile(path, self)
        self.synced.setdefault(path, path.stat().st_size)
        return file

    def is_last_step(self) -> bool:
        self.n_steps -= 1
        return self.n_steps < 0

    def is_full(self) -> bool:
        return self.rng.random() < self.full_share

    def crash(self) -> None:
        """Of what was not synced, any part may be missing, zero, or there."""
        for path, n_synced in self.synced.items():
            data = bytearray(path.read_bytes())
            kept = self.rng.randrange(min(n_synced, len(data)), len(data) + 1)
            del data[kept:]
            if kept > n_synced and self.rng.random() < 0.5:
                begin = self.rng.randrange(n_synced, kept)
                data[begin : begin + 32] = b"\0" * len(data[begin : begin + 32])
            path.write_bytes(data)
        raise Crash


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), full_share=st.sampled_from([0.0, 0.2]))
def test_each_line_stands_once_after_any_number_of_crashes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, full_share: float
) -> None:
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("batch")
    numbers = list(range(1, rng.randrange(2, 40)))
    for _ in range(200):
        disk = CrashingDisk(rng, rng.randrange(1, 40), full_share)
        todo = journal(folder, disk)
        try:
            done = todo.recover().done
            left = [number for number in numbers if number not in done]
            rng.shuffle(left)
            while left:
                n = rng.randrange(1, 8)
                _keep(todo, [record(number) for number in left[:n]])
                left = left[n:]
        except Crash:
            continue
        finally:
            todo.close()
        assert journal_is_done(folder, numbers)  # whatever had no room at first
        break
    assert standing(folder) == sorted(f"id-{number}" for number in numbers)


def _keep(todo: Journal, given_records: list[Record]) -> None:
    while True:
        try:
            todo.keep(given_records)
        except DiskTrouble:
            given_records = []  # the journal has them
        else:
            return


def journal_is_done(folder: Path, numbers: list[int]) -> bool:
    check = journal(folder)
    done = check.recover().done
    check.close()
    return done == set(numbers)
