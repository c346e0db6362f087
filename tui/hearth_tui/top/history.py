"""History: the latest values of a few figures, and how they are drawn in one line."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

LENGTH = 240
"""Values of each figure: four minutes of one a second."""
_BARS = "▁▂▃▄▅▆▇█"
_GAP = " "


class History:
    """Values by name, the oldest of which go; None is a moment at which one was not known."""

    def __init__(self, length: int = LENGTH) -> None:
        self._values: defaultdict[str, deque[float | None]] = defaultdict(
            lambda: deque(maxlen=length)
        )

    def add(self, name: str, value: float | None) -> None:
        """One more."""
        self._values[name].append(value)

    def line(self, name: str, columns: int, most: float | None = None) -> str:
        """The latest values as bars, one column each; `most` is a full one (None: the largest)."""
        values = list(self._values[name])[-columns:]
        return sparkline([None] * (columns - len(values)) + values, most)


def sparkline(values: Sequence[float | None], most: float | None = None) -> str:
    """One bar a value, a gap where one is not known. Pure."""
    known = [value for value in values if value is not None]
    full = most if most is not None else max(known, default=0.0)
    return "".join(_GAP if value is None else _bar(value, full) for value in values)


def _bar(value: float, full: float) -> str:
    if full <= 0:
        return _BARS[0]
    step = round(max(0.0, min(1.0, value / full)) * (len(_BARS) - 1))
    return _BARS[step]


class Speed:
    """A counter's growth per second; None before two readings, and where it fell."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def read(self, count: float, now: float) -> float | None:
        """Take a reading in, at a time in seconds."""
        last, self._last = self._last, (count, now)
        if last is None or now <= last[1] or count < last[0]:
            return None
        return (count - last[0]) / (now - last[1])
