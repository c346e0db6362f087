"""Pipeline: a model's stages in order, driven as one.

With one stage a step runs in the caller's thread. With more, each stage has a thread of its own, so
that as many steps as there are stages overlap; native code releases the interpreter's lock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeAlias

import numpy as np

from hearth_backends.base import Batch, Capabilities, Hidden, Sampled, Stage
from hearth_backends.errors import BackendError, StepError
from hearth_backends.kv.contract import Placement, Reservation

_POLL_SHARE = 0.05
"""Of the time that a step has taken, what passes until the next look at whether it is done."""
_POLL_SECONDS = (2e-5, 5e-4)
"""But no less and no more."""


_Result: TypeAlias = Future[Hidden | Sampled]


class Ticket:
    """A step under way; `Pipeline.wait` redeems it."""

    __slots__ = ("future", "handle", "result")

    def __init__(self) -> None:
        self.handle: object | None = None  # of a single stage
        self.future: Future[Sampled] | None = None  # of several
        self.result: Sampled | None = None


@dataclass(frozen=True, slots=True)
class _Leg:
    """One stage's share of a step."""

    stage: Stage
    batch: Batch


class Pipeline:
    """Owns the stages and closes them; use as a context manager."""

    def __init__(self, stages: Sequence[Stage], *, runs_ahead: bool = True) -> None:
        """`runs_ahead`: whether steps may be submitted before the last one's tokens are known, where stages can."""
        self.stages = tuple(stages)
        self.caps = common_capabilities([stage.caps for stage in stages])
        if not runs_ahead:
            self.caps = replace(self.caps, async_depth=0)
        self._workers = [
            ThreadPoolExecutor(1, thread_name_prefix=f"stage-{i}")
            for i in range(len(stages) if len(stages) > 1 else 0)
        ]
        self._latest: list[_Result | None] = [None] * len(self._workers)

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def n_batches(self) -> int:
        """Steps with different requests that are worth keeping in flight."""
        return len(self.stages)

    def submit(self, batch: Batch, reservation: Reservation) -> Ticket:
        """Start a step; raises what `Stage.submit` raises, unless the stages have threads: then `wait` does."""
        ticket = Ticket()
        if not self._workers:
            ticket.handle = self.stages[0].submit(batch, None)
            return ticket
        ticket.future = self._chain(self._legs(batch, reservation))
        return ticket

    def wait(self, ticket: Ticket) -> Sampled:
        """The result of a step; tickets are redeemed in the order they were given."""
        if ticket.future is not None:
            try:
                return ticket.future.result()
            except BackendError:
                self._latest = [None] * len(self._workers)  # what follows begins anew
                raise
        if ticket.handle is None:
            raise BackendError("a step was redeemed twice")
        result = finish(self.stages[0], ticket.handle)
        ticket.handle = None
        return _sampled(result)

    def idle(self) -> bool:
        """Let every stage do a bit of what can be done at leisure; whether there is more. See `Stage.idle`."""
        if not self._workers:
            return self.stages[0].idle()
        bits = [w.submit(s.idle) for w, s in zip(self._workers, self.stages, strict=True)]
        wants = [bit.result() for bit in bits]
        return any(wants)

    def export(self, placements: Sequence[Placement], n_tokens: int) -> tuple[bytes, ...]:
        """What each stage holds of a sequence, after the steps in flight; raises StepError."""
        if not self._workers:
            return (self.stages[0].export(placements[0], n_tokens),)
        exports = [
            worker.submit(stage.export, placement, n_tokens)
            for worker, stage, placement in zip(self._workers, self.stages, placements, strict=True)
        ]
        return tuple(export.result() for export in exports)

    def _legs(self, batch: Batch, reservation: Reservation) -> list[_Leg]:
        """The batch as each stage sees it: its own rows and operations, sampling only in the last."""
        legs = []
        counts = np.diff(np.flatnonzero(np.r_[True, np.diff(batch.seq) != 0, True]))
        for i, (stage, part) in enumerate(zip(self.stages, reservation.parts, strict=True)):
            rows = np.array([placement.row for placement in part.placements], np.int32)
            legs.append(
                _Leg(
                    stage,
                    replace(
                        batch,
                        seq=np.repeat(rows, counts),
                        ops=part.ops,
                        placements=part.placements,
                        sampling=batch.sampling if i == len(self.stages) - 1 else None,
                        recalls=tuple(
                            replace(recall, blobs=(recall.blobs[i],)) for recall in batch.recalls
                        ),
                    ),
                )
            )
        return legs

    def _chain(self, legs: list[_Leg]) -> Future[Sampled]:
        """Run the legs one after another, each in its stage's thread."""
        done: Future[Sampled] = Future()
        before: _Result | None = None
        for i, (worker, leg) in enumerate(zip(self._workers, legs, strict=True)):
            before = worker.submit(_run_leg, leg, before, self._latest[i])
            self._latest[i] = before
        if before is not None:
            before.add_done_callback(lambda last: _settle(done, last))
        return done

    def close(self) -> None:
        """End the threads, then close every stage."""
        for worker in self._workers:
            worker.shutdown(wait=True, cancel_futures=True)
        for stage in self.stages:
            stage.close()


def _run_leg(leg: _Leg, before: _Result | None, earlier: _Result | None) -> Hidden | Sampled:
    """`before`: this step in the stage before; `earlier`: the step before this one, in this stage.

    A step after a failed one does not run: its operations on key-value memory may not overtake those
    of the failed one, which are repeated.
    """
    if earlier is not None and earlier.exception() is not None:
        raise StepError("the step before this one failed")
    hidden = None
    if before is not None:
        result = before.result()
        if isinstance(result, Sampled):
            raise BackendError("a stage with a head stands before the last")
        hidden = result
    return finish(leg.stage, leg.stage.submit(leg.batch, hidden))


def finish(stage: Stage, handle: object) -> Hidden | Sampled:
    """Wait for a step; raises what `Stage.poll` raises."""
    result = stage.poll(handle)
    if result is not None:
        return result
    began = time.perf_counter()
    least, most = _POLL_SECONDS
    while (result := stage.poll(handle)) is None:
        elapsed = time.perf_counter() - began
        time.sleep(min(most, max(least, _POLL_SHARE * elapsed)))
    return result


def _sampled(result: Hidden | Sampled) -> Sampled:
    if not isinstance(result, Sampled):
        raise BackendError("the last stage has no head")
    return result


def _settle(done: Future[Sampled], last: Future[Hidden | Sampled]) -> None:
    error = last.exception()
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(_sampled(last.result()))


def common_capabilities(caps: Sequence[Capabilities]) -> Capabilities:
    """What every stage can do."""
    prefill = [c.max_prefill_seqs for c in caps if c.max_prefill_seqs is not None]
    wants = [c.max_wants for c in caps if c.max_wants is not None]
    saturating = [c.saturating_rows for c in caps if c.saturating_rows is not None]
    adapters = [c.adapters_per_batch for c in caps if c.adapters_per_batch is not None]
    return Capabilities(
        mixed=all(c.mixed for c in caps),
        ragged=all(c.ragged for c in caps),
        max_prefill_seqs=min(prefill, default=None),
        async_depth=0 if len(caps) > 1 else caps[0].async_depth,
        shares_prefix=all(c.shares_prefix for c in caps),
        rollback="any" if all(c.rollback == "any" for c in caps) else "checkpoint",
        max_wants=min(wants, default=None),
        saturating_rows=None if len(saturating) < len(caps) else max(saturating),
        adapters_per_batch=min(adapters, default=None),
    )
