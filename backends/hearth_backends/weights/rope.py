"""Rotary frequencies as checkpoints ask for them: plain, linear, Llama 3, YaRN and longrope; pure.

Frequencies are radians a token, float64, one for each pair of rotated dimensions. The formulas are
those of Hugging Face's `modeling_rope_utils`, which the checkpoints were made with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RopeTable:
    """How fast each pair of dimensions turns, and what cosines and sines are multiplied by."""

    frequencies: F64  # [n_dims / 2]
    magnitude: float = 1.0

    def angles(self, n_positions: int) -> F64:
        """[n_positions, n_dims / 2]"""
        return np.arange(n_positions, dtype=np.float64)[:, None] * self.frequencies


@dataclass(frozen=True, slots=True)
class Yarn:
    """What YaRN needs to know beside the base."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float | None = None  # None: what its authors give for the factor


@dataclass(frozen=True, slots=True)
class Llama3:
    """Wavelengths up to one bound are kept, above another divided by the factor, mixed between."""

    factor: float
    original_context: int
    low_factor: float = 1.0
    high_factor: float = 4.0


def plain(theta: float, n_dims: int, *, factor: float = 1.0) -> RopeTable:
    """Powers of the base; `factor` stretches positions (linear scaling)."""
    return RopeTable(_powers(theta, n_dims) / factor)


def divided(
    theta: float, n_dims: int, divisors: Sequence[float] | NDArray[np.floating]
) -> RopeTable:
    """Powers of the base, each divided by its own factor (Llama 3 as GGUF stores it)."""
    return RopeTable(_powers(theta, n_dims) / np.asarray(divisors, np.float64))


def llama3(theta: float, n_dims: int, by: Llama3) -> RopeTable:
    """See Llama3."""
    frequencies = _powers(theta, n_dims)
    wavelengths = 2 * math.pi / frequencies
    smooth = by.original_context / wavelengths - by.low_factor
    smooth = np.clip(smooth / (by.high_factor - by.low_factor), 0.0, 1.0)
    return RopeTable((1 - smooth) * frequencies / by.factor + smooth * frequencies)


def yarn(theta: float, n_dims: int, by: Yarn) -> RopeTable:
    """Fast dimensions are kept, slow ones stretched, those between are mixed by a ramp."""
    frequencies = _powers(theta, n_dims)

    def dimension(n_turns: float) -> float:
        turns = by.original_context / (n_turns * 2 * math.pi)
        return n_dims * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(dimension(by.beta_fast)), 0)
    high = min(math.ceil(dimension(by.beta_slow)), n_dims - 1)
    ramp = (np.arange(n_dims // 2) - low) / max(high - low, 1e-3)
    kept = 1 - np.clip(ramp, 0.0, 1.0)
    magnitude = by.magnitude
    if magnitude is None:
        magnitude = 0.1 * math.log(by.factor) + 1.0 if by.factor > 1 else 1.0
    return RopeTable(frequencies / by.factor * (1 - kept) + frequencies * kept, magnitude)


def longrope(
    theta: float, n_dims: int, divisors: Sequence[float] | NDArray[np.floating], magnitude: float
) -> RopeTable:
    """Each frequency divided by its own factor; the caller chose those for short or long contexts."""
    return RopeTable(divided(theta, n_dims, divisors).frequencies, magnitude)


def longrope_magnitude(factor: float, original_context: int) -> float:
    """What longrope multiplies with where the file does not say."""
    if factor <= 1.0:
        return 1.0
    return math.sqrt(1 + math.log(factor) / math.log(original_context))


def _powers(theta: float, n_dims: int) -> F64:
    return np.asarray(theta ** (-np.arange(0, n_dims, 2, dtype=np.float64) / n_dims), np.float64)
