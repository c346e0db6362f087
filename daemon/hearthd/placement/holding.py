"""Holding: what one engine has of the ledger, from the plan that was made for it until it is gone."""

from __future__ import annotations

from collections.abc import Iterable

from hearthd.placement.ledger import Ledger, MemoryLease, Need


class Holding:
    """What was planned is leased from the beginning, and given for what the engine then asks for."""

    def __init__(self, ledger: Ledger, holder: str, planned: Iterable[MemoryLease] = ()) -> None:
        self._ledger = ledger
        self._holder = holder
        self._planned = list(planned)
        self._leases: list[MemoryLease] = []

    def ask(self, need: Need) -> MemoryLease:
        """A lease of what the engine needs, in place of what was planned there; raises InsufficientMemory."""
        for planned in [
            p for p in self._planned if self._ledger.is_shared(p.need.device, need.device)
        ]:
            self._ledger.release(planned)
            self._planned.remove(planned)
        lease = self._ledger.grant(self._holder, need)
        self._leases.append(lease)
        return lease

    def give_back(self) -> None:
        """Everything, however the engine ended; idempotent."""
        for lease in (*self._planned, *self._leases):
            self._ledger.release(lease)
        self._planned.clear()
        self._leases.clear()
