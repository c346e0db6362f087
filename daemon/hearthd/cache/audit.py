"""Audit: pairs of questions that people have judged, and what each threshold would make of them; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec

_Z: Final = 1.959964  # of a two-sided bound of 95 %
TARGET_FALSE_RATE: Final = 0.01
_STEPS: Final = [round(0.70 + 0.01 * i, 2) for i in range(30)]


class Pair(msgspec.Struct, frozen=True):
    """Two questions, and whether one answer is right for both."""

    a: str
    b: str
    same: bool


class Judged(msgspec.Struct, frozen=True):
    """A pair, how alike its questions are, and what keeps them apart, if anything."""

    same: bool
    similarity: float
    guard: str | None


class Row(msgspec.Struct, frozen=True):
    """What a threshold would do; bounds are Wilson's, of 95 %."""

    threshold: float
    hits: int  # of pairs that are the same
    hit_rate: float
    hit_low: float
    hit_high: float
    false_hits: int  # of pairs that are not
    false_rate: float
    false_low: float
    false_high: float


class Report(msgspec.Struct, frozen=True):
    """All thresholds, and the lowest whose false hits are under one in a hundred (None: there is none)."""

    n_same: int
    n_different: int
    refused_same: int  # by guards, however alike
    refused_different: int
    rows: list[Row]
    chosen: float | None


def report(judged: Sequence[Judged]) -> Report:
    """The table of an audit."""
    same = [one for one in judged if one.same]
    different = [one for one in judged if not one.same]
    rows = [_row(threshold, same, different) for threshold in _STEPS]
    good = [row.threshold for row in rows if different and row.false_rate < TARGET_FALSE_RATE]
    return Report(
        n_same=len(same),
        n_different=len(different),
        refused_same=sum(one.guard is not None for one in same),
        refused_different=sum(one.guard is not None for one in different),
        rows=rows,
        chosen=min(good, default=None),
    )


def bounds(n: int, of: int) -> tuple[float, float]:
    """Wilson's interval of a share."""
    if of == 0:
        return 0.0, 1.0
    share, square = n / of, _Z * _Z
    middle = (share + square / (2 * of)) / (1 + square / of)
    half = _Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


def _row(threshold: float, same: Sequence[Judged], different: Sequence[Judged]) -> Row:
    n_hits, n_false = _hits(threshold, same), _hits(threshold, different)
    return Row(
        threshold,
        n_hits, n_hits / max(1, len(same)), *bounds(n_hits, len(same)),
        n_false, n_false / max(1, len(different)), *bounds(n_false, len(different)),
    )  # fmt: skip


def _hits(threshold: float, judged: Sequence[Judged]) -> int:
    return sum(one.guard is None and one.similarity >= threshold for one in judged)
