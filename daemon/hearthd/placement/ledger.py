"""Ledger: leases of memory by device; the one place that may say yes to an allocation."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hearthd.errors import InsufficientMemory
from hearthd.placement.corrections import Corrections
from hearthd.placement.need import Footprint, Need

HOST_POOL = "cpu"
"""Of all processors, and of devices that have no memory but the host's."""
__all__ = ["HOST_POOL", "Footprint", "Ledger", "MemoryLease", "Need", "Verdict", "format_bytes"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class MemoryLease:
    """Memory granted to a holder on one device."""

    id: int
    holder: str
    need: Need


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a need fits, and the arithmetic in words where it does not."""

    ok: bool
    message: str = ""


class Ledger:
    """Grants leases so that their sum never exceeds a device's budget; used from one thread.

    Every processor device ("cpu:0", "cpu:1") draws on one pool, for they share the memory; one may have a limit of
    its own within that.
    """

    def __init__(self, budgets: Mapping[str, int]) -> None:
        """`budgets`: bytes by pool, "cpu" and the names of other devices, and by processor; raises ValueError below 0."""
        for pool, n_bytes in budgets.items():
            if n_bytes < 0:
                raise ValueError(f"the budget of {pool} is {n_bytes} bytes")
        self._budgets = dict(budgets)  # of pools, and limits of devices within theirs
        self._joined: dict[str, str] = {}  # device to the pool of another
        self._closed: dict[str, str] = {}  # device to why nothing may be put on it
        self._outside: dict[str, int] = {}  # by pool: what others have taken of the budget
        self._leases: dict[int, MemoryLease] = {}
        self._numbers = itertools.count(1)
        self.corrections = Corrections()
        """Of estimates, by what was measured."""

    @property
    def leases(self) -> tuple[MemoryLease, ...]:
        """What is granted now, oldest first."""
        return tuple(self._leases.values())

    def budget_bytes(self, device: str) -> int | None:
        """What may be leased on a device in all; None where no budget is known."""
        pool = self._budgets.get(self._pool_of(device))
        own = self._budgets.get(device)
        return pool if pool is None or own is None else min(pool, own)

    def set_budget(self, device: str, n_bytes: int) -> None:
        """A device was found; raises ValueError below 0."""
        if n_bytes < 0:
            raise ValueError(f"the budget of {device} is {n_bytes} bytes")
        self._budgets[self._pool_of(device)] = n_bytes

    def set_outside(self, device: str, n_bytes: int) -> None:
        """Others have taken so much of the budget; leases that are there stay. Raises ValueError below 0."""
        if n_bytes < 0:
            raise ValueError(f"others have {n_bytes} bytes of {device}")
        self._outside[self._pool_of(device)] = n_bytes

    def outside_bytes(self, device: str) -> int:
        """What others have taken of the budget, as far as it was seen."""
        return self._outside.get(self._pool_of(device), 0)

    def join(self, device: str, pool: str) -> None:
        """The memory of a device is that of a pool."""
        self._joined[device] = pool

    def is_shared(self, device: str, other: str) -> bool:
        """Whether two devices draw on the same memory."""
        return self._pool_of(device) == self._pool_of(other)

    def close(self, device: str, reason: str | None) -> None:
        """Grant nothing more on a device, for this reason; None: grant again. Leases stay."""
        if reason is None:
            self._closed.pop(device, None)
        else:
            self._closed[device] = reason

    def free_bytes(self, device: str) -> int | None:
        """What is left of the budget, never below 0; None where no budget is known."""
        pool = self._budgets.get(self._pool_of(device))
        if pool is None:
            return None
        free = pool - sum(lease.need.total_bytes for lease in self._on(device))
        own = self._budgets.get(device)
        if own is not None:
            free = min(free, own - sum(self.held(device).values()))
        return max(0, free - self.outside_bytes(device))

    def free_on_all(self, devices: Sequence[str]) -> int | None:
        """What equal shares on these devices may take together; None where a budget is not known."""
        names = dict.fromkeys(devices)
        sharing = Counter(self._pool_of(name) for name in names)
        shares = []
        for name in names:
            free = self.free_bytes(name)
            if free is None:
                return None
            shares.append(free // sharing[self._pool_of(name)])
        return len(shares) * min(shares)

    def held(self, device: str) -> dict[str, int]:
        """Bytes leased on a device by holder; what draws on the same pool counts on its own device only."""
        held: dict[str, int] = {}
        for lease in self._leases.values():
            if lease.need.device == device:
                held[lease.holder] = held.get(lease.holder, 0) + lease.need.total_bytes
        return held

    def holders(self, device: str) -> dict[str, int]:
        """Bytes leased by holder of the memory that a device draws on, whichever device they are leased for."""
        held: dict[str, int] = {}
        for lease in self._on(device):
            held[lease.holder] = held.get(lease.holder, 0) + lease.need.total_bytes
        return held

    def can_grant(self, holder: str, need: Need) -> Verdict:
        """Whether `grant` would say yes."""
        if need.device in self._closed:
            return Verdict(False, f"{holder}: {self._closed[need.device]}")
        budget, free = self.budget_bytes(need.device), self.free_bytes(need.device)
        if budget is None or free is None:
            return Verdict(
                False,
                f"{holder} needs {format_bytes(need.total_bytes)} on {need.device}, whose memory is not "
                f"known: set memory.devices.{need.device!r}",
            )
        if need.total_bytes <= free:
            return Verdict(True)
        return Verdict(False, self._arithmetic(holder, need, free, budget))

    def grant(self, holder: str, need: Need) -> MemoryLease:
        """Lease what is needed; raises InsufficientMemory with the arithmetic."""
        verdict = self.can_grant(holder, need)
        if not verdict.ok:
            raise InsufficientMemory(verdict.message)
        lease = MemoryLease(next(self._numbers), holder, need)
        self._leases[lease.id] = lease
        return lease

    def release(self, lease: MemoryLease) -> None:
        """Give a lease back; one that is already back is ignored."""
        self._leases.pop(lease.id, None)

    def _on(self, device: str) -> list[MemoryLease]:
        pool = self._pool_of(device)
        leases = self._leases.values()
        return [lease for lease in leases if self._pool_of(lease.need.device) == pool]

    def _pool_of(self, device: str) -> str:
        kind = device.partition(":")[0]
        return HOST_POOL if kind == "cpu" else self._joined.get(device, device)

    def _others(self, device: str) -> str:
        outside = self.outside_bytes(device)
        return f"; others than Hearth have taken {format_bytes(outside)}" if outside else ""

    def _arithmetic(self, holder: str, need: Need, free: int, budget: int) -> str:
        held = ", ".join(
            f"{lease.holder} {format_bytes(lease.need.total_bytes)}"
            for lease in self._on(need.device)
        )
        return (
            f"{holder} needs {format_bytes(need.total_bytes)} on {need.device} "
            f"(weights {format_bytes(need.weights_bytes)} + kv {format_bytes(need.kv_bytes)} "
            f"+ workspace {format_bytes(need.workspace_bytes)}), "
            f"{format_bytes(free)} of {format_bytes(budget)} are free; leases: {held or 'none'}"
            f"{self._others(need.device)}"
        )


def format_bytes(n_bytes: int) -> str:
    """A size for people: "1.2 GiB"."""
    size = float(n_bytes)
    unit = 0
    while size >= 1024 and unit + 1 < len(_UNITS):
        size /= 1024
        unit += 1
    return f"{n_bytes} B" if not unit else f"{size:.1f} {_UNITS[unit]}"
