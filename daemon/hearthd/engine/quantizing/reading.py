"""Reading: a model goes over given texts, partly as prompts and partly token by token, as it would serve them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import Sampled
from hearth_backends.errors import BackendError
from hearthd.engine.checkup.bench import Bench, Rows

N_TEXTS = 4
"""Texts at once: rows of key-value memory."""
TEXT_TOKENS = 128
CHUNK_TOKENS = 32
"""Of a prompt in one step; all its rows are wanted, and stages bound those."""

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Read:
    """What a model thinks after some tokens, in one step."""

    logprobs: F32  # [n, n_vocab]
    came: NDArray[np.int32]  # [n] the tokens that follow in the text; -1 at its end
    is_prompt: bool  # whether they were computed as a prompt


def cut(tokens: Sequence[int], bos: int | None) -> list[list[int]]:
    """Up to N_TEXTS pieces of equal length, from all over the text; pure."""
    n = min(TEXT_TOKENS - (bos is not None), len(tokens) // N_TEXTS)
    if n < 2:
        raise BackendError(f"a text of {len(tokens)} tokens is too short to compare on")
    head = [] if bos is None else [bos]
    starts = [i * (len(tokens) - n) // (N_TEXTS - 1) for i in range(N_TEXTS)]
    return [[*head, *tokens[start : start + n]] for start in starts]


def read(bench: Bench, texts: Sequence[Sequence[int]]) -> Iterator[Read]:
    """The first half of every text as a prompt, in chunks; then all texts on, token by token."""
    half = len(texts[0]) // 2
    for row, text in enumerate(texts):
        for start in range(0, half, CHUNK_TOKENS):
            stop = min(start + CHUNK_TOKENS, half)
            rows = Rows(row, text[start:stop], start=start, wants_all=True, fresh=start == 0)
            yield _read(bench, [rows], [text[i + 1] for i in range(start, stop)], is_prompt=True)
    for at in range(half, len(texts[0])):
        rows_of_all = [
            Rows(row, [text[at]], start=at, decoded=True) for row, text in enumerate(texts)
        ]
        came = [text[at + 1] if at + 1 < len(text) else -1 for text in texts]
        yield _read(bench, rows_of_all, came, is_prompt=False)


def _read(bench: Bench, rows: Sequence[Rows], came: Sequence[int], *, is_prompt: bool) -> Read:
    n_vocab = bench.model.spec.n_vocab
    sampled = bench.step(*rows, n_best=n_vocab)
    return Read(_whole(sampled, n_vocab), np.array(came, np.int32), is_prompt)


def _whole(sampled: Sampled, n_vocab: int) -> F32:
    """[n, n_vocab] log-probabilities in the order of the vocabulary."""
    out = np.full((len(sampled.tokens), n_vocab), -np.inf, np.float32)
    for i, top in enumerate(sampled.top):
        if top is None:
            raise BackendError("a stage gave no log-probabilities")
        out[i, top.tokens] = top.logprobs
    if not np.isfinite(out).any(axis=1).all():
        raise BackendError("what the model computes is not a number")
    return out
