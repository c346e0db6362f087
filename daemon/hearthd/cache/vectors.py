"""Vectors: directions of unit length and their signs, compared in plain Python; pure.

`hearthd` has no NumPy. The signs of a vector, as bits of one integer, find what may be near at some ten
million comparisons a second; only those few are multiplied out.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Mapping
from operator import mul
from typing import Final

FEW: Final = 16
"""Candidates that are multiplied out."""


def unit(values: bytes) -> array[float]:
    """Float32 values as a vector of length 1; raises ValueError for one that has no direction."""
    vector = array("f", values)
    length = math.sqrt(sum(map(mul, vector, vector)))
    if not math.isfinite(length) or length == 0:
        raise ValueError("the vector has no direction")
    return array("f", [value / length for value in vector])


def signs(vector: array[float]) -> bytes:
    """One bit for each dimension: whether it is above 0."""
    bits = int("".join(["1" if value > 0 else "0" for value in vector]), 2)
    return bits.to_bytes((len(vector) + 7) // 8)


def cosine(one: array[float], other: array[float]) -> float:
    """Of two vectors of length 1."""
    return float(sum(map(mul, one, other)))


def nearest_signs(wanted: bytes, candidates: Mapping[int, int]) -> list[int]:
    """Numbers of the few candidates that agree in most signs; these are given as integers, by number."""
    bits = int.from_bytes(wanted)
    distances = [(bits ^ candidate).bit_count() for candidate in candidates.values()]
    numbers = list(candidates)
    nearest = heapq.nsmallest(FEW, range(len(distances)), key=distances.__getitem__)
    return [numbers[at] for at in nearest]
