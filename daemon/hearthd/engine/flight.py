"""Launching and landing: what a step in flight does to its requests, from its plan to its commit or rollback."""

from __future__ import annotations

from hearth_backends.kv.contract import Reservation
from hearthd.engine.request import Recalled, Request, RequestState
from hearthd.engine.selection import Selection
from hearthd.engine.step import StepPlan


def launch(selection: Selection, reservation: Reservation) -> StepPlan:
    """The plan of what was selected; its requests have these rows in flight from now on."""
    if selection.is_plain:
        return _launch_decode(selection, reservation)
    starts: list[int] = []
    samples: list[bool] = []
    scored: list[int] = []
    counts = [want.n_tokens for want in selection.wants]
    recalls: dict[int, Recalled] = {}
    n_rows = 0
    is_decode = True
    for i, request in enumerate(selection.requests):
        count, n_draft = counts[i], selection.drafts[i]
        start = request.n_computed + request.n_inflight
        end = start + count
        samples_here = (
            end - n_draft == len(request.tokens) + request.n_unknown
            and request.limits.max_output > 0
        )
        n_scored = 0
        if request.scores_prompt:
            n_scored = max(0, min(end, request.n_prompt - 1) - max(start, request.n_scored))
        starts.append(start)
        samples.append(samples_here)
        scored.append(n_scored)
        request.n_inflight += count
        request.n_unknown += samples_here
        n_rows += count
        if request.recall is not None:
            recalls[i], request.recall = request.recall, None
            n_rows -= recalls[i].n_tokens
        is_decode = is_decode and count == 1 and samples_here and not n_scored
    return StepPlan(
        selection.requests,
        starts,
        counts,
        selection.drafts,
        samples,
        scored,
        reservation,
        n_rows,
        is_decode,
        recalls,
    )


def _launch_decode(selection: Selection, reservation: Reservation) -> StepPlan:
    """The same for the commonest step, where it counts: one row each, all of them sampled."""
    starts: list[int] = []
    for request in selection.requests:
        starts.append(request.n_computed + request.n_inflight)
        request.n_inflight += 1
        request.n_unknown += 1
    n = len(starts)
    return StepPlan(
        selection.requests,
        starts,
        [1] * n,
        selection.drafts,
        [True] * n,
        [0] * n,
        reservation,
        n_rows=n,
        is_decode=True,
    )


def commit_decode(plan: StepPlan, sampled: list[int]) -> list[list[int]]:
    """Record a step of which every request has one row and one sample; the tokens each gained."""
    gained: list[list[int]] = []
    running = RequestState.RUNNING
    for request, token in zip(plan.requests, sampled, strict=True):
        request.n_inflight -= 1
        request.n_computed += 1
        request.n_unknown -= 1
        if request.state is running:
            request.tokens.append(token)
            gained.append([token])
        else:
            gained.append([])
    return gained


def commit_mixed(plan: StepPlan, sampled: list[int]) -> tuple[list[list[int]], dict[int, int]]:
    """Record any other step: the tokens each request gained, and by its id the rows that count."""
    gained: list[list[int]] = []
    computed: dict[int, int] = {}
    row = 0
    for i, request in enumerate(plan.requests):
        n_draft, samples = plan.drafts[i], plan.samples[i]
        row += plan.scored[i]
        tokens: list[int] = []
        n_computed = plan.counts[i]
        if samples:
            tokens = _accept(request, sampled[row : row + 1 + n_draft])
            row += 1 + n_draft
            n_computed -= 1 + n_draft - len(tokens)
        request.n_inflight -= plan.counts[i]
        request.n_unknown -= samples
        request.n_computed += n_computed
        request.n_scored += plan.scored[i]
        if n_draft:  # another step's draft may be in flight
            request.draft = []
        computed[request.id] = n_computed
        if request.state is RequestState.RUNNING:
            request.tokens.extend(tokens)
            gained.append(tokens)
        else:
            gained.append([])
    return gained, computed


def _accept(request: Request, sampled: list[int]) -> list[int]:
    """The samples that stand: each draft that equals its sample, and the first that does not."""
    accepted: list[int] = []
    for i, token in enumerate(sampled):
        accepted.append(token)
        if token in request.limits.end_ids:
            break
        if i < len(request.draft) and request.draft[i] != token:
            break
    return accepted


def note_failure(request: Request) -> None:
    """Count failed steps since the request was further than it had ever been."""
    if request.n_computed > request.n_reached:
        request.n_reached = request.n_computed
        request.n_failed = 0
    request.n_failed += 1
