"""MemoryWatch: looks who else has taken memory before something is placed, and tells the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import psutil

from hearthd.hardware.device import Device
from hearthd.hardware.memory import HostMemory, memory_of
from hearthd.hardware.tree import Tree
from hearthd.placement.ledger import HOST_POOL, Ledger
from hearthd.placement.outside import Resident, outside_of_device, outside_of_host


class MemoryWatch:
    """Budgets that the configuration names are the operator's word, and are not looked at."""

    def __init__(
        self,
        ledger: Ledger,
        tree: Tree,
        *,
        reserve: int | None = None,
        trusted: Iterable[str] = (),
    ) -> None:
        """`trusted`: pools and devices with configured budgets."""
        self._ledger = ledger
        self._tree = tree
        self._reserve = reserve
        self._trusted = frozenset(trusted)

    async def look(self, devices: Sequence[Device], pids: Sequence[int]) -> None:
        """`pids`: engines with leases on the host's memory."""
        budget = self._ledger.budget_bytes(HOST_POOL)
        if HOST_POOL not in self._trusted and budget is not None:
            host, own = await asyncio.to_thread(self._read, pids)
            outside = outside_of_host(budget, host, own, self._reserve)
            self._ledger.set_outside(HOST_POOL, outside)
        for device in devices:
            budget, free = self._ledger.budget_bytes(device.name), device.reading.free_bytes
            if device.kind == "cpu" or device.unified or device.name in self._trusted:
                continue
            if budget is not None and free is not None:
                leased = sum(self._ledger.held(device.name).values())
                self._ledger.set_outside(device.name, outside_of_device(budget, free, leased))

    def _read(self, pids: Sequence[int]) -> tuple[HostMemory, Resident]:
        own = [_resident(pid) for pid in pids]
        total = Resident(sum(r.anonymous_bytes for r in own), sum(r.total_bytes for r in own))
        return memory_of(self._tree), total


def _resident(pid: int) -> Resident:
    """Of an engine and the processes of its stages; nothing of one that has just ended."""
    anonymous = total = 0
    try:
        engine = psutil.Process(pid)
        for process in (engine, *engine.children(recursive=True)):
            memory = process.memory_info()
            total += memory.rss
            anonymous += memory.rss - memory.shared
    except psutil.Error:
        return Resident(anonymous, total)
    return Resident(anonymous, total)
