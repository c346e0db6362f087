"""Control groups: which bound this process, version 1 and 2, and what they leave of the processors."""

from __future__ import annotations

from pathlib import Path

from hearthd.hardware.tree import parse_list


def lineage(root: Path, membership: Path, controller: str) -> list[Path]:
    """The directories of the groups that bound this process, from its own up to the root.

    `root` is where groups are mounted, `membership` /proc/self/cgroup. Empty where there are none.
    """
    paths: list[Path] = []
    for controllers, group in _own_groups(membership):
        if controllers == "":
            bases = [root, root / "unified"]
        elif controller in controllers.split(","):
            bases = [root / controller, root / controllers]
        else:
            continue
        for base in bases:
            own = base / group.lstrip("/")
            paths += [own, *(parent for parent in own.parents if parent.is_relative_to(base))]
    return list(dict.fromkeys(paths))


def quota_cpus(groups: list[Path]) -> float | None:
    """How many processors' time the groups grant at most; None: no limit."""
    quotas = [quota for group in groups if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def allowed_cpus(groups: list[Path]) -> frozenset[int] | None:
    """The processors that the innermost group with a word on it allows; None: none says a word."""
    for group in groups:
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            cpus = parse_list(read_text(group / name))
            if cpus:
                return cpus
    return None


def read_text(path: Path) -> str | None:
    """What a file says; None where it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The number in a file; None for "max", and where there is no such file."""
    text = read_text(path)
    return int(text) if text is not None and text.isdecimal() else None


def _own_groups(membership: Path) -> list[tuple[str, str]]:
    """(controllers, path) of each hierarchy this process is in; empty where there are no groups."""
    lines = (read_text(membership) or "").splitlines()
    parts = [line.split(":", 2) for line in lines]
    return [(part[1], part[2]) for part in parts if len(part) == 3]


def _quota(group: Path) -> float | None:
    both = (read_text(group / "cpu.max") or "").split()
    if len(both) == 2 and all(part.isdecimal() for part in both):
        quota, period = (int(part) for part in both)
    else:
        found = read_int(group / "cpu.cfs_quota_us"), read_int(group / "cpu.cfs_period_us")
        quota, period = found[0] or 0, found[1] or 0
    return quota / period if quota > 0 and period > 0 else None
