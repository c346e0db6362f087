"""The budget of this host: what is free, what a control group leaves, less a reserve."""

from __future__ import annotations

from pathlib import Path

import pytest

from hearthd.hardware.memory import (
    LEAST_RESERVE_BYTES,
    HostMemory,
    model_budget_bytes,
    read_host_memory,
)

GIB = 1024**3


@pytest.mark.parametrize(
    ("memory", "budget"),
    [
        (HostMemory(10 * GIB, None), 9 * GIB),
        (HostMemory(10 * GIB, 5 * GIB), 5 * GIB - 5 * GIB // 10),
        (HostMemory(GIB, 20 * GIB), GIB - LEAST_RESERVE_BYTES),
        (HostMemory(1000, None), 0),
    ],
)
def test_detected(memory: HostMemory, budget: int) -> None:
    assert model_budget_bytes(memory, budget=None, reserve=None) == budget


def test_configured_counts_as_it_is() -> None:
    assert model_budget_bytes(HostMemory(1000, 10), budget=5 * GIB, reserve=None) == 5 * GIB
    assert model_budget_bytes(HostMemory(1000, None), budget=None, reserve=100) == 900


def group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_narrowest_group_of_version_2_counts(tmp_path: Path) -> None:
    group(
        tmp_path,
        "a",
        memory__max="1000\n",
        memory__current="700\n",
        memory__stat="anon 1\ninactive_file 50\n",
    )
    group(tmp_path, "a/b", memory__max="max\n", memory__current="600\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/a/b\n")
    assert read_host_memory(tmp_path, membership).cgroup_free_bytes == 350


def test_version_1(tmp_path: Path) -> None:
    limits = {"memory__limit_in_bytes": "500", "memory__usage_in_bytes": "100"}
    group(tmp_path, "memory/a", **limits)
    membership = tmp_path / "cgroup"
    membership.write_text("3:cpu:/a\n2:memory,x:/a\n")
    assert read_host_memory(tmp_path, membership).cgroup_free_bytes == 400


def test_no_groups_is_no_limit(tmp_path: Path) -> None:
    memory = read_host_memory(tmp_path, tmp_path / "absent")
    assert memory.cgroup_free_bytes is None
    assert memory.available_bytes > 0
