"""Comparison: two distributions after every token of a text; pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """Of some rows, each the distribution after one token."""

    kl: F64  # [n] nats, of the original from what is judged
    same_best: NDArray[np.bool_]  # [n]
    surprise: F64  # [n] nats of the token that came; nan where none did


def judge(reference: F32, found: F32, came: NDArray[np.int32]) -> Judged:
    """`reference` and `found` [n, n_vocab] log-probabilities, `came` [n] the next tokens, -1: none."""
    exact = reference.astype(np.float64)
    # A token that the original rules out adds nothing, whatever the other thinks of it.
    possible = np.isfinite(exact)
    apart = np.subtract(exact, found, out=np.zeros_like(exact), where=possible)
    kl = np.einsum("ij,ij->i", np.exp(exact), apart)
    surprise = np.full(len(came), np.nan)
    told = came >= 0
    surprise[told] = -found[told, came[told]].astype(np.float64)
    return Judged(np.maximum(kl, 0.0), reference.argmax(axis=1) == found.argmax(axis=1), surprise)


def joined(parts: list[Judged]) -> Judged:
    """All rows in one."""
    return Judged(
        np.concatenate([part.kl for part in parts]),
        np.concatenate([part.same_best for part in parts]),
        np.concatenate([part.surprise for part in parts]),
    )


def perplexity(surprise: F64) -> float:
    """Of the tokens that came."""
    return float(np.exp(np.nanmean(surprise)))
