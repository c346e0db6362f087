"""FrequencySketch: about how often each key was asked for lately, in constant memory (TinyLFU's counters)."""

from __future__ import annotations

from typing import Final

_ROWS: Final = 4
_MOST: Final = 15
_HALVED: Final = bytes(count // 2 for count in range(256))


class FrequencySketch:
    """A count-min sketch of small counters; all are halved each time `width * 8` keys were counted.

    Keys are hashes already: each row takes other bytes of them. One thread adds; any may read.
    """

    __slots__ = ("_mask", "_n_added", "_rows", "_sample")

    def __init__(self, width: int = 1 << 20) -> None:
        """`width`: counters of each of four rows, a byte each; a power of two up to 2^32."""
        if width & (width - 1) or not 0 < width <= 1 << 32:
            raise ValueError("the width must be a power of two up to 2^32")
        self._mask = width - 1
        self._rows = [bytearray(width) for _ in range(_ROWS)]
        self._sample = width * 8
        self._n_added = 0

    def add(self, key: bytes) -> None:
        """Count a key of at least 16 bytes once."""
        least = self.estimate(key)
        if least < _MOST:  # conservative update: only the smallest counters grow
            for row, at in zip(self._rows, self._places(key), strict=True):
                if row[at] == least:
                    row[at] = least + 1
        self._n_added += 1
        if self._n_added >= self._sample:
            self._age()

    def estimate(self, key: bytes) -> int:
        """0 to 15; rarely too much, never too little but for what has aged away."""
        return min(row[at] for row, at in zip(self._rows, self._places(key), strict=True))

    def _places(self, key: bytes) -> tuple[int, int, int, int]:
        mask, whole = self._mask, int.from_bytes(key[:16], "little")
        return (
            whole & mask,
            (whole >> 32) & mask,
            (whole >> 64) & mask,
            (whole >> 96) & mask,
        )

    def _age(self) -> None:
        self._rows = [row.translate(_HALVED) for row in self._rows]
        self._n_added //= 2
