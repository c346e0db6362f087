"""BatchBuilder: a step plan as the arrays that a stage computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import I32, Batch, Recall, SamplingBatch, SamplingParams
from hearthd.engine.grammar import ALL_ALLOWED, Grammar
from hearthd.engine.request import Request
from hearthd.engine.step import StepPlan

_NOBODY: tuple[int, ...] = ()


class BatchBuilder:
    """Builds batches; remembers what does not change while the same requests go on decoding."""

    def __init__(self) -> None:
        self._cohort: list[Request] = []
        self._params: tuple[SamplingParams, ...] = ()
        self._n_prompt: tuple[int, ...] = ()
        self._offsets = np.zeros(0, np.int64)
        self._plain = False  # no penalties, no banned tokens: nothing to look up per step
        self._grammars: tuple[Grammar | None, ...] = ()  # empty where no request has one
        self._adapter: I32 | None = None  # of each; None where no request has one

    def build(self, plan: StepPlan) -> Batch:
        """The batch of a plan; rows in the plan's order."""
        return self._decode(plan) if plan.is_decode else self._mixed(plan)

    def _decode(self, plan: StepPlan) -> Batch:
        requests = plan.requests
        if requests != self._cohort:
            self._remember(requests)
        n = len(requests)
        pos = np.array(plan.starts, np.int32)
        placements = plan.reservation.placements
        history: tuple[Sequence[int] | None, ...] = (None,) * n
        banned: tuple[tuple[int, ...], ...] = (_NOBODY,) * n
        if not self._plain:
            history = tuple(r.tokens if r.params.penalises else None for r in requests)
            banned = tuple(
                _banned(r, start + 1 - r.n_prompt)
                for r, start in zip(requests, plan.starts, strict=True)
            )
        return Batch(
            tokens=np.array(
                [
                    r.tokens[s] if s < len(r.tokens) else -1
                    for r, s in zip(requests, plan.starts, strict=True)
                ],
                np.int32,
            ),
            seq=np.array([p.row for p in placements], np.int32),
            pos=pos,
            want=np.ones(n, np.bool_),
            ops=plan.reservation.ops,
            placements=placements,
            sampling=SamplingBatch(
                params=self._params,
                positions=pos - self._offsets,
                targets=np.full(n, -1, np.int32),
                history=history,
                n_prompt=self._n_prompt,
                banned=banned,
                mask=_masks([(grammar, ()) for grammar in self._grammars]),
            ),
            adapter=self._adapter,
        )

    def _remember(self, requests: list[Request]) -> None:
        self._cohort = list(requests)
        self._params = tuple(r.params for r in requests)
        self._n_prompt = tuple(r.n_prompt for r in requests)
        self._offsets = np.array(self._n_prompt, np.int64) - 1
        self._plain = not any(r.params.penalises or r.limits.min_output for r in requests)
        grammars = tuple(r.grammar for r in requests)
        self._grammars = grammars if any(grammars) else ()
        self._adapter = _adapters(requests, [1] * len(requests))

    @staticmethod
    def _mixed(plan: StepPlan) -> Batch:
        tokens: list[int] = []
        seq = np.empty(plan.n_rows, np.int32)
        pos = np.empty(plan.n_rows, np.int32)
        want = np.zeros(plan.n_rows, np.bool_)
        rows = _WantedRows()
        counts: list[int] = []
        at = 0
        for i, request in enumerate(plan.requests):
            start, count = plan.starts[i], plan.counts[i]
            if i in plan.recalls:
                n_recalled = plan.recalls[i].n_tokens
                start, count = start + n_recalled, count - n_recalled
            counts.append(count)
            known = request.tokens[start : start + count]
            if len(known) < count:
                known = known + (request.draft or [-1])
            tokens += known
            seq[at : at + count] = plan.reservation.placements[i].row
            pos[at : at + count] = np.arange(start, start + count, dtype=np.int32)
            if plan.scored[i]:
                first = max(start, request.n_scored)
                rows.score(request, first, plan.scored[i])
                want[at + first - start : at + first - start + plan.scored[i]] = True
            if plan.samples[i]:
                n_samples = 1 + plan.drafts[i]
                rows.sample(request, start + count - n_samples, n_samples)
                want[at + count - n_samples : at + count] = True
            at += count
        return Batch(
            tokens=np.array(tokens, np.int32),
            seq=seq,
            pos=pos,
            want=want,
            ops=plan.reservation.ops,
            placements=plan.reservation.placements,
            sampling=rows.batch(),
            recalls=tuple(
                Recall(i, recalled.n_tokens, recalled.saved.blobs)
                for i, recalled in plan.recalls.items()
            ),
            adapter=_adapters(plan.requests, counts),
        )


class _WantedRows:
    """Collects the sampling parameters of wanted rows."""

    def __init__(self) -> None:
        self.params: list[SamplingParams] = []
        self.positions: list[int] = []
        self.targets: list[int] = []
        self.history: list[Sequence[int] | None] = []
        self.n_prompt: list[int] = []
        self.banned: list[tuple[int, ...]] = []
        self.grammars: list[tuple[Grammar | None, Sequence[int]]] = []  # and the guesses after it

    def score(self, request: Request, first: int, n_rows: int) -> None:
        """Rows `first` onward give the log-probability of the prompt token after each."""
        for row in range(first, first + n_rows):
            self._add(request, 0, request.tokens[row + 1], None, _NOBODY)
            self.grammars.append((None, ()))

    def sample(self, request: Request, first: int, n_rows: int) -> None:
        """Rows `first` onward sample; each assumes that the drafts before it stand."""
        self.grammars.append((request.grammar, request.draft[: n_rows - 1]))
        for i in range(n_rows):
            position = first + i + 1 - request.n_prompt
            history: Sequence[int] | None = None
            if request.params.penalises:
                history = request.tokens + request.draft[:i] if i else request.tokens
            self._add(request, position, -1, history, _banned(request, position))

    def _add(
        self,
        request: Request,
        position: int,
        target: int,
        history: Sequence[int] | None,
        banned: tuple[int, ...],
    ) -> None:
        self.params.append(request.params)
        self.positions.append(position)
        self.targets.append(target)
        self.history.append(history)
        self.n_prompt.append(request.n_prompt)
        self.banned.append(banned)

    def batch(self) -> SamplingBatch | None:
        if not self.params:
            return None
        return SamplingBatch(
            params=tuple(self.params),
            positions=np.array(self.positions, np.int64),
            targets=np.array(self.targets, np.int32),
            history=tuple(self.history),
            n_prompt=tuple(self.n_prompt),
            banned=tuple(self.banned),
            mask=_masks(self.grammars),
        )


def _adapters(requests: Sequence[Request], counts: Sequence[int]) -> I32 | None:
    """The adapter of each row, of which each request has so many; None where all have none."""
    numbers = [request.adapter for request in requests]
    return np.repeat(np.array(numbers, np.int32), counts) if any(numbers) else None


def _masks(
    grammars: Sequence[tuple[Grammar | None, Sequence[int]]],
) -> NDArray[np.uint32] | None:
    """One row for each grammar and each guess after it; None where there is no grammar at all."""
    n_words = next((grammar.n_words for grammar, _ in grammars if grammar is not None), None)
    if n_words is None:
        return None
    n_rows = sum(1 + len(draft) for _, draft in grammars)
    mask = np.full((n_rows, n_words), ALL_ALLOWED, np.uint32)
    at = 0
    for grammar, draft in grammars:
        end = at + 1 + len(draft)
        if grammar is not None:
            grammar.masks(mask[at:end], draft)
        at = end
    return mask


def _banned(request: Request, position: int) -> tuple[int, ...]:
    """Tokens that may not come at an output position: end tokens before the shortest output."""
    if position >= request.limits.min_output:
        return _NOBODY
    return request.limits.banned_early
