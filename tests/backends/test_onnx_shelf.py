"""The folder of packed weights: within its budget, the longest unused makes way, and never what is in use."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime")

from onnx_runner import canary, onnx_runner

from hearth_backends.errors import Unsupported
from hearth_backends.onnx import packing, shelf


def put(folder: Path, name: str, n_bytes: int, used: int) -> Path:
    path = folder / f"{name}.weights"
    path.write_bytes(bytes(n_bytes))
    os.utime(path, (used, used))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.weights"))


def test_the_longest_unused_makes_way(tmp_path: Path) -> None:
    for i, name in enumerate(("c", "a", "b")):
        put(tmp_path, name, 100, 1000 + i)
    (tmp_path / "x.scales").write_bytes(bytes(1000))
    shelf.make_room(tmp_path, 100, 400)
    assert names(tmp_path) == ["a", "b", "c"]
    shelf.make_room(tmp_path, 100, 350)
    assert names(tmp_path) == ["a", "b"]
    held = shelf.hold(tmp_path / "a.weights")
    assert held is not None
    held.close()
    shelf.make_room(tmp_path, 100, 200)
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "x.scales").exists()


def test_what_is_in_use_stays_and_too_little_room_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    used, idle = put(tmp_path, "used", 100, 1), put(tmp_path, "idle", 100, 2)
    with closing(shelf.hold(used)):  # type: ignore[type-var]
        shelf.make_room(tmp_path, 100, 50)
        assert names(tmp_path) == ["used"]
    assert not idle.exists()
    assert "take 200 bytes, HEARTH_CACHE_BYTES is 50" in caplog.text
    shelf.make_room(tmp_path, 0, 50)
    assert names(tmp_path) == []
    assert shelf.hold(used) is None


def test_no_bound(tmp_path: Path) -> None:
    put(tmp_path, "a", 100, 1)
    (tmp_path / "a.partial-999999999").write_bytes(b"half")
    (tmp_path / "a.partial-1").write_bytes(b"half")
    shelf.make_room(tmp_path, 1 << 60, None)
    assert names(tmp_path) == ["a"]
    assert [path.name for path in tmp_path.glob("*.partial-*")] == ["a.partial-1"]


@pytest.mark.parametrize(
    ("said", "n_bytes"),
    [("100", 100), ("1.5KiB", 1536), ("20GB", 20_000_000_000), ("2 MiB", 2 << 20), ("0", None)],
)
def test_budgets(said: str, n_bytes: int | None) -> None:
    assert shelf.budget_bytes({shelf.BUDGET: said}) == n_bytes
    assert shelf.budget_bytes({}) == shelf.DEFAULT_BYTES


@pytest.mark.parametrize("said", ["", "much", "12 parsecs", "-1"])
def test_what_is_no_budget_is_told(said: str) -> None:
    with pytest.raises(Unsupported, match=r"HEARTH_CACHE_BYTES = .* is no size"):
        shelf.budget_bytes({shelf.BUDGET: said})


def test_models_in_use_keep_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_CACHE", str(tmp_path))
    monkeypatch.setenv(shelf.BUDGET, "1")
    monkeypatch.setattr(packing, "SMALL_BYTES", 0)
    folder = tmp_path / "onnx"
    with closing(onnx_runner(canary(), "fp32")):
        (first,) = names(folder)
        with closing(onnx_runner(canary(), "int8")):
            assert len(names(folder)) == 2
        with closing(onnx_runner(canary(), "int4-32")):
            assert len(names(folder)) == 2
            assert first in names(folder)
    with closing(onnx_runner(canary(), "int8")):
        assert len(names(folder)) == 1
