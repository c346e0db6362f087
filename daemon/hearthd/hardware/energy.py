"""EnergyMeter: watts from counters of energy, which is what many drivers have instead."""

from __future__ import annotations


class EnergyMeter:
    """Remembers the last reading of each counter; the first one gives nothing."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int, float]] = {}

    def watts(self, key: str, microjoules: int | None, now_seconds: float) -> float | None:
        """Mean power since the last reading of that counter; None where it has wrapped around."""
        if microjoules is None:
            return None
        before = self._last.get(key)
        self._last[key] = microjoules, now_seconds
        if before is None or microjoules < before[0] or now_seconds <= before[1]:
            return None
        return (microjoules - before[0]) / 1e6 / (now_seconds - before[1])
