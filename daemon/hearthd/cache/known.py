"""KnownKeys: which keys may have an answer on disk; who asks for another need not be looked up at all."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from typing import Final

BEGINNING: Final = 8
"""Bytes of a key that are remembered; keys are hashes, so that two hardly ever begin alike."""
MOST_NEW: Final = 1 << 16
"""Keys added one by one, of some hundred bytes each, before all should be read from the disk again."""


class KnownKeys:
    """Says no only where there is none; knows nothing, and says yes to all, until it was told what the disk has.

    Belongs to the event loop. Keys whose answers have gone stay known until the disk is read again.
    """

    def __init__(self) -> None:
        self._sorted: array[int] | None = None
        self._new: set[int] = set()
        self._before: set[int] = set()  # new ones when the reading of the disk began

    def __contains__(self, key: bytes) -> bool:
        if self._sorted is None:
            return True
        beginning = _beginning(key)
        if beginning in self._new or beginning in self._before:
            return True
        at = bisect_left(self._sorted, beginning)
        return at < len(self._sorted) and self._sorted[at] == beginning

    @property
    def are_many_new(self) -> bool:
        """Whether reading the disk again would save memory."""
        return len(self._new) >= MOST_NEW

    def add(self, key: bytes) -> None:
        """An answer is about to be on disk."""
        self._new.add(_beginning(key))

    def begin(self) -> None:
        """The keys on disk are about to be read; what is added from now on may be missing among them."""
        self._before |= self._new
        self._new = set()

    def end(self, beginnings: bytes) -> None:
        """All keys on disk have been read: their beginnings, in order."""
        read = array("Q", beginnings)
        if sys.byteorder == "little":
            read.byteswap()
        self._sorted, self._before = read, set()


def _beginning(key: bytes) -> int:
    return int.from_bytes(key[:BEGINNING])
