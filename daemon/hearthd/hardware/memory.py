"""Host memory: what is free, what a control group leaves of it, and what models may have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

LEAST_RESERVE_BYTES = 256 * 1024 * 1024
"""Left to everybody else, however little there is."""
RESERVE_SHARE = 0.1
_UNLIMITED = 1 << 60  # version 1 says "no limit" with a huge number


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of this host as this process may use them; None: no limit."""

    available_bytes: int
    cgroup_free_bytes: int | None


def read_host_memory(
    cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> HostMemory:
    """What is free now; reads files, so it belongs to the start or a thread."""
    groups = _own_groups(membership)
    frees = [
        free
        for path in _lineage(cgroup_root, groups)
        if (free := _cgroup_free_bytes(path)) is not None
    ]
    return HostMemory(psutil.virtual_memory().available, min(frees, default=None))


def model_budget_bytes(memory: HostMemory, *, budget: int | None, reserve: int | None) -> int:
    """What all models together may take: as configured, or what is free less a reserve; pure."""
    if budget is not None:
        return budget
    free = memory.available_bytes
    if memory.cgroup_free_bytes is not None:
        free = min(free, memory.cgroup_free_bytes)
    if reserve is None:
        reserve = max(LEAST_RESERVE_BYTES, int(free * RESERVE_SHARE))
    return max(0, free - reserve)


def _own_groups(membership: Path) -> list[tuple[str, str]]:
    """(controllers, path) of each hierarchy this process is in; empty where there are no groups."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    parts = [line.split(":", 2) for line in lines]
    return [(part[1], part[2]) for part in parts if len(part) == 3]


def _lineage(root: Path, groups: list[tuple[str, str]]) -> list[Path]:
    """The group directories that bound this process's memory, from its own up to the root."""
    paths: list[Path] = []
    for controllers, group in groups:
        if controllers == "":
            base = root
        elif "memory" in controllers.split(","):
            base = root / "memory"
        else:
            continue
        own = base / group.lstrip("/")
        paths += [own, *(parent for parent in own.parents if parent.is_relative_to(base))]
    return paths


def _cgroup_free_bytes(group: Path) -> int | None:
    """What a group's limit leaves; None without a limit. Reclaimable file cache counts as free."""
    for limit_name, used_name, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _read_int(group / limit_name), _read_int(group / used_name)
        if limit is None or used is None or limit >= _UNLIMITED:
            continue
        cache = _read_stat(group / "memory.stat", cache_key)
        return max(0, limit - used + cache)
    return None


def _read_int(path: Path) -> int | None:
    """The number in a file; None for "max", and where there is no such file."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _read_stat(path: Path, key: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0
