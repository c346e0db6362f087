"""A pipeline of several stages: what each of them sees, in which order, and what a failure stops."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from hearth_backends.base import Batch, Capabilities, Handle, Hidden, Lease, Sampled, Stage
from hearth_backends.errors import StepError
from hearth_backends.kv.contract import KVOp, OpKind, Placement, Reservation
from hearthd.engine.pipeline import Pipeline, common_capabilities


class Listening(Stage):
    """Notes the batches it runs; fails those with a certain first token."""

    def __init__(self, *, head: bool, fails: int | None = None) -> None:
        self.caps = Capabilities()
        self.batches: list[Batch] = []
        self.gate = threading.Event()
        self.gate.set()
        self.n_idle, self.most_idle = 0, 1
        self._head = head
        self._fails = fails

    def idle(self) -> bool:
        self.n_idle += 1
        return self.n_idle < self.most_idle

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        self.gate.wait()
        if batch.tokens[0] == self._fails:
            raise StepError("told to")
        self.batches.append(batch)
        return batch

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        assert isinstance(handle, Batch)
        if self._head:
            return Sampled(handle.tokens + 100)
        return np.zeros((len(handle.tokens), 4), np.float32)

    def export(self, placement: Placement, n_tokens: int) -> bytes:
        raise NotImplementedError

    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        raise NotImplementedError

    def load_adapter(self, adapter: int, path: Path, lease: Lease) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.batches.clear()


def work(token: int) -> tuple[Batch, Reservation]:
    """Two rows of one sequence, which is in row 3 of the first stage and in row 5 of the second."""
    parts = tuple(
        Reservation((), (KVOp(OpKind.TRUNCATE, row, row, 0),), (Placement(row),)) for row in (3, 5)
    )
    batch = Batch(
        tokens=np.array([token, token + 1], np.int32),
        seq=np.array([3, 3], np.int32),
        pos=np.arange(2, dtype=np.int32),
        want=np.ones(2, np.bool_),
        ops=parts[0].ops,
        placements=parts[0].placements,
        sampling=None,
    )
    return batch, Reservation((), parts[0].ops, parts[0].placements, parts)


def test_each_stage_sees_its_own_rows_and_operations() -> None:
    stages = [Listening(head=False), Listening(head=True)]
    pipeline = Pipeline(stages)
    assert pipeline.wait(pipeline.submit(*work(7))).tokens.tolist() == [107, 108]
    assert [stage.batches[0].seq.tolist() for stage in stages] == [[3, 3], [5, 5]]
    assert [stage.batches[0].ops[0].dst for stage in stages] == [3, 5]
    pipeline.close()


def test_steps_overlap_and_come_back_in_order() -> None:
    stages = [Listening(head=False), Listening(head=True)]
    stages[1].gate.clear()
    with Pipeline(stages) as pipeline:
        tickets = [pipeline.submit(*work(token)) for token in (1, 2, 3)]
        while len(stages[0].batches) < 3:
            pass
        stages[1].gate.set()
        assert [pipeline.wait(ticket).tokens[0] for ticket in tickets] == [101, 102, 103]


@pytest.mark.parametrize("failing", [0, 1])
def test_nothing_overtakes_a_step_that_failed(failing: int) -> None:
    stages = [Listening(head=False, fails=1 if failing == 0 else None), Listening(head=True)]
    if failing == 1:
        stages[1] = Listening(head=True, fails=1)
    with Pipeline(stages) as pipeline:
        stages[0].gate.clear()
        tickets = [pipeline.submit(*work(token)) for token in (1, 2)]
        stages[0].gate.set()
        for ticket in tickets:
            with pytest.raises(StepError):
                pipeline.wait(ticket)
        assert not stages[1].batches, "the second stage ran a step whose forerunner it never saw"
        assert pipeline.wait(pipeline.submit(*work(4))).tokens[0] == 104


def test_a_pipeline_can_do_what_all_its_stages_can() -> None:
    caps = common_capabilities(
        [
            Capabilities(max_wants=8, async_depth=1, rollback="checkpoint"),
            Capabilities(mixed=False, max_prefill_seqs=1, max_wants=32, async_depth=1),
        ]
    )
    assert caps == Capabilities(
        mixed=False, max_prefill_seqs=1, max_wants=8, async_depth=0, rollback="checkpoint"
    )


def test_every_stage_gets_leisure_until_none_wants_it() -> None:
    stages = [Listening(head=False), Listening(head=True)]
    stages[1].most_idle = 3
    with Pipeline(stages) as pipeline:
        assert [pipeline.idle() for _ in range(3)] == [True, True, False]
        assert [stage.n_idle for stage in stages] == [3, 3]
    with Pipeline(stages[1:]) as pipeline:
        assert not pipeline.idle()
