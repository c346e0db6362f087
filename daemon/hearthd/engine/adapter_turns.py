"""AdapterTurns: whose requests make up the next step, where a step applies few adapters at a time."""

from __future__ import annotations

from collections.abc import Iterable


class AdapterTurns:
    """Adapters take turns, the one that was served longest ago first; none is passed over for ever.

    A change of adapters costs a stage time, so a turn lasts for some seconds if there is work for it.
    """

    def __init__(self, per_batch: int, turn_seconds: float) -> None:
        self._per_batch = per_batch
        self._turn_seconds = turn_seconds
        self._current: frozenset[int] = frozenset()
        self._began_seconds = 0.0
        self._served: dict[int, int] = {}  # by adapter: number of the latest turn it was served in
        self._n_turns = 0

    def order(self, wanting: Iterable[int], now: float) -> list[frozenset[int]]:
        """Adapters to try together, those first whose turn it is; `wanting` have work."""
        lasts = now - self._began_seconds < self._turn_seconds
        ranked = sorted(
            set(wanting),
            key=lambda a: (not (lasts and a in self._current), self._served.get(a, 0), a),
        )
        n = self._per_batch
        return [frozenset(ranked[i : i + n]) for i in range(0, len(ranked), n)]

    def serve(self, adapters: frozenset[int], now: float) -> None:
        """A step was planned for these."""
        lasts = now - self._began_seconds < self._turn_seconds
        if adapters == self._current and lasts:
            return
        self._n_turns += 1
        self._current, self._began_seconds = adapters, now
        for adapter in adapters:
            self._served[adapter] = self._n_turns
