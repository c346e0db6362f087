"""Host memory: what is free, what a control group leaves of it, and what models may have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hearthd.hardware.groups import lineage, read_int, read_text
from hearthd.hardware.tree import Tree, parse_fields

LEAST_RESERVE_BYTES = 256 * 1024 * 1024
"""Left to everybody else, however little there is."""
RESERVE_SHARE = 0.1
_UNLIMITED = 1 << 60  # version 1 says "no limit" with a huge number


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes of this host as this process may use them; None: no limit."""

    available_bytes: int
    cgroup_free_bytes: int | None
    total_bytes: int | None = None
    cgroup_total_bytes: int | None = None

    @property
    def free_bytes(self) -> int:
        """What this process may still take."""
        if self.cgroup_free_bytes is None:
            return self.available_bytes
        return min(self.available_bytes, self.cgroup_free_bytes)

    @property
    def usable_bytes(self) -> int | None:
        """What this process may have in all."""
        known = [n for n in (self.total_bytes, self.cgroup_total_bytes) if n is not None]
        return min(known, default=None)


def read_host_memory(
    cgroup_root: Path = Path("/sys/fs/cgroup"),
    membership: Path = Path("/proc/self/cgroup"),
    meminfo: Path = Path("/proc/meminfo"),
) -> HostMemory:
    """What is free now; reads files, so it belongs to the start or a thread."""
    limits = [
        limit
        for path in lineage(cgroup_root, membership, "memory")
        if (limit := _cgroup_limit(path)) is not None
    ]
    fields = parse_fields((read_text(meminfo) or "").splitlines())
    return HostMemory(
        parse_kib(fields.get("MemAvailable")) or parse_kib(fields.get("MemFree")) or 0,
        min((free for _, free in limits), default=None),
        parse_kib(fields.get("MemTotal")),
        min((total for total, _ in limits), default=None),
    )


def memory_of(tree: Tree) -> HostMemory:
    """What is free now on the host whose files are there."""
    names = ("sys/fs/cgroup", "proc/self/cgroup", "proc/meminfo")
    return read_host_memory(*(tree.path(name) for name in names))


def model_budget_bytes(memory: HostMemory, *, budget: int | None, reserve: int | None) -> int:
    """What all models together may take: as configured, or what is free less a reserve; pure."""
    if budget is not None:
        return budget
    return less_reserve(memory.free_bytes, reserve)


def less_reserve(free_bytes: int, reserve: int | None = None) -> int:
    """What models may take of what is free on a device; pure."""
    if reserve is None:
        reserve = max(LEAST_RESERVE_BYTES, int(free_bytes * RESERVE_SHARE))
    return max(0, free_bytes - reserve)


def unified_free_bytes(device_free: int | None, host: HostMemory) -> int:
    """What is free on a device that has no memory but the host's; pure.

    Drivers of such devices count the page cache as used, or know nothing of other processes: neither
    figure alone is true.
    """
    return host.available_bytes if device_free is None else min(device_free, host.available_bytes)


def parse_kib(text: str | None) -> int | None:
    """Bytes of "1234 kB"; None for what is none."""
    number = (text or "").split()[:1]
    return int(number[0]) * 1024 if number and number[0].isdecimal() else None


def _cgroup_limit(group: Path) -> tuple[int, int] | None:
    """A group's limit and what it leaves; None without one. Reclaimable file cache counts as free."""
    for limit_name, used_name, cache_key in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = read_int(group / limit_name), read_int(group / used_name)
        if limit is None or used is None or limit >= _UNLIMITED:
            continue
        cache = _read_stat(group / "memory.stat", cache_key)
        return limit, max(0, limit - used + cache)
    return None


def _read_stat(path: Path, key: str) -> int:
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0
