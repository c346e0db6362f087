"""The folder of saved prefixes: whole files or none, nothing foreign, within its bytes, never in anybody's way."""

from __future__ import annotations

import os
import queue
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth_backends.kv.contract import BLOCK_TOKENS
from hearth_backends.kv.hashing import HashChain
from hearthd.engine.prefixes import disk as module
from hearthd.engine.prefixes.disk import PrefixDisk
from hearthd.engine.prefixes.file import BadFile, SavedPrefix, read_prefix
from hearthd.engine.prefixes.index import PrefixIndex

MINE = "this model, this configuration"


def saved(seed: int, n_blocks: int = 4, n_bytes: int = 5000) -> SavedPrefix:
    tokens = array("i", [seed * 1000 + i for i in range(n_blocks * BLOCK_TOKENS)])
    blobs = (bytes([seed % 256]) * n_bytes, b"second stage")
    return SavedPrefix(tokens, tuple(HashChain("m").upto(tokens)), blobs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@pytest.fixture
def open_disk(folder: Path) -> Iterator[Callable[..., PrefixDisk]]:
    disks: list[PrefixDisk] = []

    def make(fingerprint: str = MINE, n_bytes: int = 1 << 20, **fields: int) -> PrefixDisk:
        disks.append(PrefixDisk(folder, fingerprint, n_bytes, **{"keep_free_bytes": 0, **fields}))
        return disks[-1]

    yield make
    for disk in disks:
        disk.close()


def fetch(disk: PrefixDisk, prefix: SavedPrefix) -> SavedPrefix | None:
    box: queue.SimpleQueue[SavedPrefix | None] = queue.SimpleQueue()
    disk.fetch(prefix.hashes, box.put)
    return box.get(timeout=10)


def same(a: SavedPrefix | None, b: SavedPrefix) -> bool:
    return a is not None and (a.tokens, a.hashes, a.blobs) == (b.tokens, b.hashes, b.blobs)


def test_what_is_written_is_found_after_a_restart(
    open_disk: Callable[..., PrefixDisk], folder: Path
) -> None:
    disk = open_disk()
    for seed in range(3):
        disk.write(saved(seed)).result()
    disk.close()
    again = open_disk()
    assert again.n_bytes == sum(path.stat().st_size for path in folder.iterdir())
    for seed in range(3):
        assert again.n_covered(saved(seed).hashes) == 4
        assert same(fetch(again, saved(seed)), saved(seed))
    assert again.n_covered(saved(9).hashes) == 0
    assert fetch(again, saved(9)) is None
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


@pytest.mark.parametrize("n_kept", [0, 5, 60, 200, -1])
def test_a_truncated_file_is_missed_and_deleted(
    open_disk: Callable[..., PrefixDisk], folder: Path, n_kept: int
) -> None:
    disk = open_disk()
    disk.write(saved(1)).result()
    (path,) = folder.iterdir()
    os.truncate(path, n_kept if n_kept >= 0 else path.stat().st_size - 1)
    assert fetch(disk, saved(1)) is None
    assert not list(folder.iterdir())
    assert disk.n_covered(saved(1).hashes) == 0
    path.write_bytes(b"HPREFIX1" + b"\xff" * n_kept if n_kept > 0 else b"")
    assert open_disk().n_bytes == 0
    assert not list(folder.iterdir())


def test_every_flipped_bit_is_seen(open_disk: Callable[..., PrefixDisk], folder: Path) -> None:
    open_disk().write(saved(1, n_bytes=64)).result()
    (path,) = folder.iterdir()
    sound = path.read_bytes()
    n_header = len(sound) - 64 - 12 - 4 * 64 - 16 * 4
    for at in [*range(n_header), *range(n_header, len(sound), 37)]:
        damaged = bytearray(sound)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(BadFile):
            read_prefix(path, MINE)


def test_damage_that_the_length_does_not_show_is_a_miss_and_deleted(
    open_disk: Callable[..., PrefixDisk], folder: Path
) -> None:
    disk = open_disk()
    disk.write(saved(1)).result()
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    assert fetch(open_disk(), saved(1)) is None
    assert not list(folder.iterdir())


def test_foreign_files_are_deleted_others_left_alone(
    open_disk: Callable[..., PrefixDisk], folder: Path
) -> None:
    disk = open_disk()
    disk.write(saved(1)).result()
    (folder / "half.new").write_bytes(b"half a file")
    (folder / "README").write_text("not ours")
    other = open_disk("another model")
    assert other.n_bytes == 0
    assert [path.name for path in folder.iterdir()] == ["README"]
    assert fetch(disk, saved(1)) is None


def test_the_least_recently_used_go_first_also_after_a_restart(
    open_disk: Callable[..., PrefixDisk], folder: Path
) -> None:
    disk = open_disk(n_bytes=18_000)
    for seed in range(3):
        disk.write(saved(seed)).result()
        path = next(p for p in folder.iterdir() if p.stem == saved(seed).hashes[-1].hex())
        os.utime(path, (seed, seed))
    assert same(fetch(disk, saved(0)), saved(0))  # its time is now
    disk.close()
    again = open_disk(n_bytes=18_000)
    again.write(saved(7)).result()
    kept = [seed for seed in (0, 1, 2, 7) if again.n_covered(saved(seed).hashes)]
    assert kept == [0, 2, 7]
    assert len(list(folder.iterdir())) == 3
    assert again.n_bytes <= 18_000
    assert len(list(open_disk(n_bytes=6000)._folder.iterdir())) == 1


def test_a_longer_prefix_takes_the_place_of_one_that_begins_it(
    open_disk: Callable[..., PrefixDisk], folder: Path
) -> None:
    disk = open_disk()
    for n_blocks in (4, 6):
        disk.write(saved(1, n_blocks)).result()
    disk.write(saved(1, 6)).result()
    assert [path.stem for path in folder.iterdir()] == [saved(1, 6).hashes[-1].hex()]
    assert same(fetch(disk, saved(1, 4)), saved(1, 6))


def test_a_full_disk_is_skipped_with_one_warning(
    open_disk: Callable[..., PrefixDisk],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = open_disk(keep_free_bytes=1 << 60)
    disk.write(saved(1)).result()
    assert disk.is_resting
    monkeypatch.setattr(module, "REST_SECONDS", 0.0)
    disk.write(saved(2)).result()
    assert not list(folder.iterdir())
    assert len(caplog.records) == 1
    assert "are free" in caplog.text
    disk._keep_free_bytes = 0
    assert not disk.is_resting
    disk.write(saved(3)).result()
    assert same(fetch(disk, saved(3)), saved(3))


def test_a_write_that_fails_half_way_leaves_nothing(
    open_disk: Callable[..., PrefixDisk],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = open_disk()
    disk.write(saved(1)).result()

    def fails(file: object, saved: object, fingerprint: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_prefix", fails)
    disk.write(saved(2)).result()
    assert "No space left" in caplog.text
    assert [path.stem for path in folder.iterdir()] == [saved(1).hashes[-1].hex()]
    assert same(fetch(disk, saved(1)), saved(1))


# --- the index -------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(0, 900)), max_size=25),
    st.integers(500, 3000),
)
def test_an_index_keeps_its_books(script: list[tuple[int, int, int]], budget: int) -> None:
    index: PrefixIndex[SavedPrefix] = PrefixIndex(budget)
    kept: list[SavedPrefix] = []
    for seed, n_blocks, n_bytes in script:
        entry = saved(seed, n_blocks, n_bytes)
        if index.n_covered(entry.hashes) == n_blocks:
            found = index.longest(entry.hashes)
            assert found is not None
            assert found[1] == n_blocks
            kept.remove(found[0])
            kept.append(found[0])
            continue
        gone = index.add(entry)
        kept = [old for old in [*kept, entry] if old not in gone]
        index.check()
        assert list(index) == kept[::-1]
        for old in kept:
            assert index.n_covered(old.hashes) == len(old.hashes)


def test_a_folder_that_others_could_enter_is_closed(
    open_disk: Callable[..., PrefixDisk], folder: Path
) -> None:
    folder.mkdir()
    folder.chmod(0o755)
    open_disk()
    assert folder.stat().st_mode & 0o077 == 0
