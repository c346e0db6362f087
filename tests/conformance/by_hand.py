"""Steps taken by hand, where a test needs to stand between the scheduler and the stages."""

from __future__ import annotations

from collections.abc import Sequence

from engine_rig import Rig

from hearth_backends.kv.contract import Placement, Reservation, Want
from hearthd import wire
from hearthd.engine.batching import BatchBuilder
from hearthd.engine.request import Request, RequestState


def _request(rig: Rig, tokens: Sequence[int]) -> Request:
    frame = wire.Submit(
        rid=1000, sampling=wire.Sampling(temperature=0.0), tokens=list(tokens), max_tokens=50
    )
    return rig.intake.submit(frame).request


def _step(rig: Rig) -> Reservation:
    """One step of whatever the scheduler plans; returns its reservation."""
    scheduler = rig.core.scheduler
    plan = scheduler.plan()
    assert plan is not None
    ticket = rig.core.pipeline.submit(BatchBuilder().build(plan), plan.reservation)
    scheduler.commit(plan, rig.core.pipeline.wait(ticket).tokens.tolist())
    rig.core.store.check()
    return plan.reservation


def _placements(reservation: Reservation) -> list[Placement]:
    """Of the only sequence, in each stage."""
    parts = reservation.parts or (reservation,)
    return [part.placements[0] for part in parts]


def export_after_prompt(rig: Rig, prompt: Sequence[int]) -> tuple[list[bytes], int]:
    """What each stage exports after a prompt, and the first token of the output."""
    request = _request(rig, prompt)
    rig.core.scheduler.add(request)
    reservation = _step(rig)
    while not request.n_output:
        reservation = _step(rig)
    placements = _placements(reservation)
    stages = rig.core.pipeline.stages
    blobs = [s.export(p, len(prompt)) for s, p in zip(stages, placements, strict=True)]
    return blobs, request.tokens[-1]


def restore_and_decode(
    rig: Rig, tokens: Sequence[int], blobs: Sequence[bytes], n: int
) -> list[int]:
    """Put exported memory of all but the last token into an engine and decode n more."""
    request = _request(rig, tokens)
    store, scheduler = rig.core.store, rig.core.scheduler
    n_restored = len(tokens) - 1
    assert store.match(request) == 0
    reservation = store.reserve([Want(request, n_restored)])
    assert reservation is not None
    placements = _placements(reservation)
    for stage, placement, blob in zip(rig.core.pipeline.stages, placements, blobs, strict=True):
        assert stage.restore(placement, blob) == n_restored
    store.commit(reservation, {})
    request.n_computed = n_restored
    request.state = RequestState.RUNNING
    scheduler.running.append(request)
    for _ in range(n):
        _step(rig)
    return request.tokens[-n:]
