"""Outside: memory that others than the engines have taken since budgets were set; pure."""

from __future__ import annotations

from dataclasses import dataclass

from hearthd.hardware.memory import HostMemory, less_reserve


@dataclass(frozen=True, slots=True)
class Resident:
    """Host memory that engines with leases there hold."""

    anonymous_bytes: int = 0  # and shared: what counts as used
    total_bytes: int = 0  # with pages of files, which count as free, but not for a control group


def outside_of_host(budget_bytes: int, host: HostMemory, own: Resident, reserve: int | None) -> int:
    """What is missing of the budget now, though no engine has it."""
    usable = host.available_bytes + own.anonymous_bytes
    if host.cgroup_free_bytes is not None:
        usable = min(usable, host.cgroup_free_bytes + own.total_bytes)
    return max(0, budget_bytes - less_reserve(usable, reserve))


def outside_of_device(budget_bytes: int, free_bytes: int, leased_bytes: int) -> int:
    """The same of a device with memory of its own, whose leases are taken to be resident."""
    return max(0, budget_bytes - less_reserve(free_bytes + leased_bytes))
