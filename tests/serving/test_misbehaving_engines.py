"""Engines that lie, hang, babble or vanish: the model says why, nobody waits for ever."""

from __future__ import annotations

import time

import pytest
from serving_rig import Start, read

from hearthd import wire
from hearthd.config import ModelConfig
from hearthd.errors import ContextLengthExceeded, ModelFailed
from hearthd.serving.restart import RestartPolicy
from hearthd.serving.vitals import Patience

SHORT = Patience(
    heartbeat_seconds=1.0, step_timeout_seconds=5.0, load_timeout_seconds=1.0, stop_seconds=0.5
)
ONCE = RestartPolicy(limit=1)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("garbage", "sent what is no frame"),
        ("closes", "closed its socket without ending"),
        ("mute", "gave no sign of life for 1 s"),
        ("stuck", "hung in one step for 1000 s"),
        ("never", "made no progress in loading for 1 s"),
        ("exits", "ended with exit status 3; its last words: ERROR hearthd.engine.x cannot go on"),
    ],
)
async def test_the_reason_is_told(start: Start, behaviour: str, reason: str) -> None:
    rig = start({"m": ModelConfig(path=behaviour)}, patience=SHORT, restarts=ONCE, scripted=True)
    waiting = rig.ask()
    status = await rig.until_state("failed")
    assert reason in (status.error or "")
    assert status.pid is None
    with pytest.raises(ModelFailed, match=reason.split(";", maxsplit=1)[0]):
        await read(waiting)
    with pytest.raises(ModelFailed):
        rig.ask()


async def test_the_last_frame_of_an_engine_that_goes_is_heard(start: Start) -> None:
    rig = start({"m": ModelConfig(path="chatty")}, scripted=True)
    assert await read(rig.ask()) == "last words"
    await rig.until(lambda status: status.n_restarts > 0)


async def test_a_stubborn_engine_is_killed_in_the_end(start: Start) -> None:
    rig = start({"m": ModelConfig(path="stubborn")}, patience=SHORT, scripted=True)
    await rig.until_state("ready")
    began = time.monotonic()
    await rig.serving.stop()
    assert 0.4 < time.monotonic() - began < 5.0


async def test_a_load_is_not_waited_for_when_stopping(start: Start) -> None:
    patience = Patience(stop_seconds=30.0)
    rig = start({"m": ModelConfig(path="never")}, patience=patience, scripted=True)
    await rig.until(lambda status: status.phase == "loading")
    began = time.monotonic()
    await rig.serving.stop()
    assert time.monotonic() - began < 10.0


async def test_stopping_right_after_the_start_leaves_nothing(start: Start) -> None:
    rig = start({"m": ModelConfig(path="never")}, scripted=True)
    await rig.serving.stop()
    assert rig.serving.model("m").pid is None or not _alive(rig.serving.model("m").pid)


async def test_a_rejection_is_the_clients_error(start: Start) -> None:
    rig = start({"m": ModelConfig(path="rejects")}, scripted=True)
    with pytest.raises(ContextLengthExceeded, match="9 > 8") as refused:
        await read(rig.ask())
    assert refused.value.param == "prompt"
    with pytest.raises(ContextLengthExceeded):
        await rig.serving.encode("m", wire.Encode(rid=0, text="x"))
    assert 'outcome="rejected"' in rig.metrics.render().decode()


def _alive(pid: int | None) -> bool:
    import psutil

    return pid is not None and psutil.pid_exists(pid)


async def test_a_supervisor_that_fails_fails_the_model(start: Start) -> None:
    """A frame that cannot be written stands for whatever nobody thought of."""
    rig = start({"m": ModelConfig(path="mute", options={"x": object()})}, scripted=True)
    with pytest.raises(ModelFailed, match="could not keep its engine"):
        await read(rig.ask())
    assert rig.ledger.leases == ()
