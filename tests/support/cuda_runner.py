"""Stages of the paged backend driven step by step, each row in blocks of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from gguf_runner import Rows, Runner, cut_specs, whole_spec

from hearth_backends.base import F32, Batch, LoadedModel, StageSpec
from hearth_backends.cuda.backend import CudaBackend
from hearth_backends.kv.contract import BLOCK_TOKENS, KVOp, Placement

CUDA = CudaBackend()
N_CTX = 128
_SIZES = {"n_seq": 4, "n_ctx": N_CTX, "kv_tokens": 4 * N_CTX}


class PagedRunner(Runner):
    """A Runner whose rows have block tables."""

    def __init__(self, model: LoadedModel, specs: Sequence[StageSpec]) -> None:
        super().__init__(model, specs, CUDA)

    def batch(self, groups: Sequence[Rows], ops: tuple[KVOp, ...] = ()) -> Batch:
        batch = super().batch(groups, ops)
        return replace(batch, placements=tuple(place(p.row) for p in batch.placements))


def place(row: int) -> Placement:
    """A row's place; neighbouring blocks are those of different rows."""
    n = N_CTX // BLOCK_TOKENS
    return Placement(row, tuple(1 + row + 4 * i for i in range(n)))


def paged_whole(model: LoadedModel, weights: str = "fp32", **fields: object) -> PagedRunner:
    """The whole model in one stage."""
    return PagedRunner(model, [whole_spec(model, weight_kind=weights, **{**_SIZES, **fields})])


def paged_cut(model: LoadedModel, *cuts: int, **fields: object) -> PagedRunner:
    """The model in stages, cut at these layers."""
    return PagedRunner(model, cut_specs(model, *cuts, weight_kind="fp32", **{**_SIZES, **fields}))


def log_softmax(logits: F32) -> F32:
    """Of each row."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    values: F32 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return values


def in_chunks(runner: Runner, text: Sequence[int]) -> F32:
    """Distributions after every token, the text in chunks and token by token."""
    chunks = [text[:50], text[50:53], *([token] for token in text[53:60]), text[60:]]
    return np.concatenate([runner.step(Rows(0, chunk, len(chunk))) for chunk in chunks])
