"""Batches of a draft model: rows of the requests it follows, packed as its stages take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import Batch, Capabilities, SamplingBatch, SamplingParams
from hearth_backends.kv.contract import Reservation, SequenceView
from hearthd.engine.grammar import ALL_ALLOWED
from hearthd.engine.request import Request


class Followed(SequenceView, Protocol):
    """A sequence that stands for a request."""

    @property
    def request(self) -> Request: ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of one request to be computed from `start` on."""

    follower: Followed
    start: int
    tokens: Sequence[int]
    guessed: Sequence[int] = ()  # after the request's tokens; the last one is in `tokens`

    @property
    def end(self) -> int:
        """The position after the last of them."""
        return self.start + len(self.tokens)


def packs(rows: Sequence[Rows], caps: Capabilities, n_rows: int) -> list[list[Rows]]:
    """The rows as steps: everything in one where stages take sequences of different lengths together."""
    packed: list[list[Rows]] = []
    n_left = n_long = 0
    ragged = caps.mixed and caps.ragged
    for each in sorted(rows, key=lambda r: len(r.tokens)):
        n, is_long = len(each.tokens), len(each.tokens) > 1
        most_long = caps.max_prefill_seqs
        is_full = (
            not packed
            or n > n_left
            or (caps.max_wants is not None and len(packed[-1]) >= caps.max_wants)
            or (is_long and not ragged)
            or (is_long and most_long is not None and n_long >= most_long)
        )
        if is_full:
            packed.append([])
            n_left, n_long = n_rows, 0
        packed[-1].append(each)
        n_left -= n
        n_long += is_long
    return packed


def batch_of(pack: Sequence[Rows], reservation: Reservation, *, wanted: bool) -> Batch:
    """One step; the last row of each request is sampled where wanted."""
    counts = [len(rows.tokens) for rows in pack]
    want = np.zeros(sum(counts), np.bool_)
    if wanted:
        want[np.cumsum(counts) - 1] = True
    return Batch(
        tokens=np.array([token for rows in pack for token in rows.tokens], np.int32),
        seq=np.repeat([p.row for p in reservation.placements], counts).astype(np.int32),
        pos=np.concatenate([np.arange(r.start, r.end, dtype=np.int32) for r in pack]),
        want=want,
        ops=reservation.ops,
        placements=reservation.placements,
        sampling=_sampling(pack) if wanted else None,
    )


def _sampling(pack: Sequence[Rows]) -> SamplingBatch:
    requests = [rows.follower.request for rows in pack]
    positions = [r.end - request.n_prompt for r, request in zip(pack, requests, strict=True)]
    return SamplingBatch(
        params=tuple(_silent(request.params) for request in requests),
        positions=np.array(positions, np.int64),
        targets=np.full(len(pack), -1, np.int32),
        history=tuple(
            [*request.tokens, *rows.guessed] if request.params.penalises else None
            for rows, request in zip(pack, requests, strict=True)
        ),
        n_prompt=tuple(request.n_prompt for request in requests),
        banned=tuple(
            request.limits.banned_early if position < request.limits.min_output else ()
            for request, position in zip(requests, positions, strict=True)
        ),
        mask=_masks(pack),
    )


def _masks(pack: Sequence[Rows]) -> NDArray[np.uint32] | None:
    """What grammars allow after what was guessed; None where there is no grammar at all."""
    grammars = [rows.follower.request.grammar for rows in pack]
    n_words = next((grammar.n_words for grammar in grammars if grammar is not None), None)
    if n_words is None:
        return None
    mask = np.full((len(pack), n_words), ALL_ALLOWED, np.uint32)
    for row, grammar, rows in zip(mask, grammars, pack, strict=True):
        if grammar is not None:
            grammar.mask_after(row, rows.guessed)
    return mask


def _silent(params: SamplingParams) -> SamplingParams:
    """The same, without log-probabilities that nobody wants."""
    return params if params.n_logprobs is None else replace(params, n_logprobs=None)
