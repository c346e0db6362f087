"""Tests of preparation: slow submits wait beside others, and a cancelled one never arrives."""

from __future__ import annotations

import queue
import threading

import pytest
from engine_process import EngineProcess
from engine_rig import Rig

from hearthd import wire
from hearthd.engine.intake import Arrival
from hearthd.engine.preparation import Preparation
from hearthd.engine.refused import Refused
from hearthd.engine.worker import warming


def frame(rid: int) -> wire.Submit:
    return wire.Submit(rid=rid, sampling=wire.Sampling(), tokens=[65, 66])


class Slow:
    """Prepares when it is told to."""

    def __init__(self, rig: Rig) -> None:
        self.go = threading.Event()
        self.rig = rig
        self.began: queue.Queue[int] = queue.Queue()

    def __call__(self, submit: wire.Submit) -> Arrival:
        self.began.put(submit.rid)
        assert self.go.wait(10)
        if submit.rid == 13:
            raise Refused(13, "invalid_value", "no", "field")
        if submit.rid == 99:
            raise ZeroDivisionError("a bug")
        return self.rig.intake.submit(submit)


def test_what_is_prepared_arrives_and_what_is_not_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    arrived: queue.Queue[Arrival] = queue.Queue()
    refused: queue.Queue[wire.Reject] = queue.Queue()
    with Rig("sim:") as rig:
        slow = Slow(rig)
        preparation = Preparation(slow, arrived.put, refused.put)
        for rid in (1, 13, 99):
            preparation.take(frame(rid))
        assert preparation.n_pending == 3
        slow.go.set()
        assert arrived.get(timeout=5).request.id == 1
        rejects = {reject.rid: reject for reject in (refused.get(timeout=5) for _ in range(2))}
        preparation.close()
    assert (rejects[13].status, rejects[13].param) == (400, "field")
    assert (rejects[99].status, rejects[99].code) == (500, "internal_error")
    assert "a bug" in caplog.text
    assert preparation.n_pending == 0


def test_a_cancelled_submit_never_arrives() -> None:
    arrived: queue.Queue[Arrival] = queue.Queue()
    with Rig("sim:") as rig:
        slow = Slow(rig)
        preparation = Preparation(slow, arrived.put, lambda _: None)
        for rid in (1, 2, 3, 4):
            preparation.take(frame(rid))
        assert {slow.began.get(timeout=5) for _ in range(2)} == {1, 2}
        assert preparation.cancel(1)  # it runs
        assert preparation.cancel(4)  # it has not begun
        assert not preparation.cancel(1)
        assert not preparation.cancel(77)
        slow.go.set()
        assert {arrived.get(timeout=5).request.id for _ in range(2)} == {2, 3}
        preparation.close()
    assert not preparation.cancel(2)
    assert slow.began.qsize() == 1


def test_a_constrained_request_in_an_engine_process() -> None:
    with EngineProcess() as engine:
        engine.load("sim:")
        engine.send(
            wire.Submit(
                rid=1,
                sampling=wire.Sampling(temperature=0),
                text="say",
                constraint=wire.ChoiceConstraint(["once", "twice"]),
            )
        )
        engine.send(
            wire.Submit(
                rid=2,
                sampling=wire.Sampling(temperature=0),
                text="say",
                constraint=wire.JsonConstraint({"contains": {}}),
            )
        )
        reject = engine.wait_for(wire.Reject)
        assert (reject.rid, reject.param) == (2, "response_format.contains")
        engine.send(wire.Cancel(2))
        seen = [d for f in engine.seen if isinstance(f, wire.Step) for d in f.deltas]
        while not any(delta.finish for delta in seen):
            seen += engine.wait_for(wire.Step).deltas
        assert "".join(delta.text for delta in seen) in ("once", "twice")


@pytest.mark.parametrize(("vocab", "is_warm"), [(300, False), (20_000, True)])
def test_a_large_vocabulary_is_ready_when_the_load_is(vocab: int, is_warm: bool) -> None:
    with Rig(f"sim:vocab={vocab}") as rig:
        with warming(rig.intake):
            assert rig.intake.tokenizer.n_vocab == vocab
        assert rig.intake.grammars.is_warm is is_warm
        said = rig.answer("say", constraint=wire.ChoiceConstraint(["once", "twice"]))
    assert said.text in ("once", "twice")
