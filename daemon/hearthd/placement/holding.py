"""Holding: what one engine has of the ledger, from the plan that was made for it until it is gone."""

from __future__ import annotations

from collections.abc import Iterable

from hearthd.placement.corrections import Key
from hearthd.placement.ledger import Ledger, MemoryLease, Need


class Holding:
    """What was planned is leased from the beginning, and given for what the engine then asks for."""

    def __init__(self, ledger: Ledger, holder: str, planned: Iterable[MemoryLease] = ()) -> None:
        self._ledger = ledger
        self._holder = holder
        self._planned = list(planned)
        self._leases: list[MemoryLease] = []
        self._is_noted = False
        self._asked: list[tuple[Key, Need]] = []  # estimates, without corrections

    def ask(self, need: Need, key: Key | None = None) -> MemoryLease:
        """A lease of what the engine needs, in place of what was planned there; raises InsufficientMemory.

        With a key, what such a load was measured to take counts.
        """
        if key is not None:
            self._asked.append((key, need))
            need = self._ledger.corrections.corrected(key, need)
        for planned in [
            p for p in self._planned if self._ledger.is_shared(p.need.device, need.device)
        ]:
            self._ledger.release(planned)
            self._planned.remove(planned)
        lease = self._ledger.grant(self._holder, need)
        self._leases.append(lease)
        return lease

    def measured(self, peak_bytes: int) -> None:
        """What the engine's process has held at most; it is that of its only lease, where that is of a processor."""
        if len(self._asked) == 1 and self._asked[0][1].device.startswith("cpu:"):
            is_new, self._is_noted = not self._is_noted, True
            self._ledger.corrections.note(*self._asked[0], peak_bytes, is_new=is_new)

    def give_back(self) -> None:
        """Everything, however the engine ended; idempotent."""
        for lease in (*self._planned, *self._leases):
            self._ledger.release(lease)
        self._planned.clear()
        self._leases.clear()
