"""Scales of 8-bit keys and values, one for each channel, from what the model itself writes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import F32, SamplingBatch, SamplingParams
from hearth_backends.onnx.packing import writing
from hearth_backends.onnx.runner import Runner
from hearth_backends.onnx.slots import Slots
from hearth_backends.onnx.stage import Embed
from hearth_backends.sampling import sample

N_TEXTS = 8
N_TOKENS = 96
MARGIN = 1.5
"""Room above the largest value that was seen: what exceeds it is cut off."""
_LEAST = 1e-6


def calibrate(runner: Runner, slots: Slots, embed: Embed, first_token: int, n_vocab: int) -> F32:
    """Scales [layers, keys and values, heads, head_dim] of a whole model with float keys and values.

    The model writes N_TEXTS texts, and every channel's largest value counts. Half of the texts are
    interrupted by random tokens again and again: what people write surprises a model, too.
    """
    dice = np.random.default_rng(0)
    tokens = np.full(N_TEXTS, first_token, np.int32)
    everyone = np.arange(N_TEXTS)
    for position in range(N_TOKENS):
        x = embed(tokens)
        logits = runner.run(0, 1, [position] * N_TEXTS, x, everyone)[:, :n_vocab]
        tokens = sample(logits, _freely(position)).tokens.copy()
        random = _interrupted(position)
        tokens[random] = dice.integers(0, n_vocab, N_TEXTS)[random]
    peaks = np.abs(slots.data[:, :, :, :, :N_TOKENS]).max(axis=(2, 4)).astype(np.float32)
    scales: F32 = np.maximum(peaks * np.float32(MARGIN / 127), np.float32(_LEAST))
    return scales


def _interrupted(position: int) -> NDArray[np.bool_]:
    """Which texts go on with random tokens: every second one, four tokens of eight."""
    odd: NDArray[np.bool_] = np.arange(N_TEXTS) % 2 == 1
    return odd if position // 4 % 2 == 0 else np.zeros_like(odd)


def _freely(position: int) -> SamplingBatch:
    """Every text is sampled as the model would have it."""
    return SamplingBatch(
        params=tuple(SamplingParams(temperature=1.0, seed=seed) for seed in range(N_TEXTS)),
        positions=np.full(N_TEXTS, position, np.int64),
        targets=np.full(N_TEXTS, -1, np.int32),
        history=(None,) * N_TEXTS,
        n_prompt=(0,) * N_TEXTS,
        banned=((),) * N_TEXTS,
    )


def scales_path(folder: Path, fingerprint: str) -> Path:
    """Where the scales of a model and its kind of weights are kept."""
    return kept_path(folder, "scales", f"{N_TEXTS} {N_TOKENS} {MARGIN} {fingerprint}")


def kept_path(folder: Path, kind: str, fingerprint: str) -> Path:
    """Where what was found of a model is kept, by all that it depends on."""
    return folder / f"{hashlib.sha256(fingerprint.encode()).hexdigest()[:32]}.{kind}"


def kept_scales(path: Path, shape: Sequence[int]) -> F32 | None:
    """Scales that were found before; None where there are none, or none of that shape."""
    try:
        scales = np.fromfile(path, np.float32)
    except OSError:
        return None  # writing them will say what is wrong
    return scales.reshape(shape) if scales.size == int(np.prod(shape)) else None


def keep_scales(path: Path, scales: F32) -> None:
    """Keep them for the next load; raises OutOfMemory where the disk is full."""
    with writing(path, scales.nbytes) as file:
        file.write(np.ascontiguousarray(scales).data)
