"""Ready is who computes: an engine that was stopped, hangs or has said nothing yet is not; a busy one is."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from hearthd_process import Daemon, running
from serving_rig import Start, read

from hearthd.config import ModelConfig
from hearthd.serving.vitals import (
    Patience,
    Phase,
    Vitals,
    cause_of_death,
    must_be_asked,
    why_not_answering,
)

# --- decisions -----------------------------------------------------------------------------------


def vitals(**fields: object) -> Vitals:
    """Heard of and proven at 100."""
    made = Vitals(Phase.SERVING, 100.0, beat_seconds=100.0, proof_seconds=100.0)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("fields", "now", "reason"),
    [
        ({}, 102.9, None),
        ({}, 103.1, "no sign of life for 3.1 s"),
        ({"proof_seconds": None}, 100.1, "first token"),
        ({"proof_seconds": 20.0}, 101.0, None),
        ({"asked_seconds": 97.5}, 101.0, None),
        ({"asked_seconds": 96.5}, 101.0, "asked for a token 4.5 s ago"),
        ({"asked_seconds": 80.0, "step_age_seconds": 20.0}, 101.0, None),
        ({"asked_seconds": 60.0, "step_age_seconds": 29.5}, 101.0, "in one step for 30 s"),
        ({"step_age_seconds": 29.5}, 100.4, None),
    ],
)
def test_who_answers(fields: dict[str, object], now: float, reason: str | None) -> None:
    why = why_not_answering(vitals(**fields), now)
    assert why is None if reason is None else reason in (why or "")


def test_who_is_asked() -> None:
    patience = Patience(probe_seconds=5.0)
    assert not must_be_asked(vitals(), patience, 104.9)
    assert must_be_asked(vitals(), patience, 105.0)
    assert not must_be_asked(vitals(asked_again_seconds=103.0), patience, 107.0)
    assert must_be_asked(vitals(proof_seconds=None), patience, 100.0)
    assert not must_be_asked(vitals(phase=Phase.LOADING, proof_seconds=None), patience, 200.0)


def test_who_beats_and_never_computes_is_replaced() -> None:
    patience = Patience(step_timeout_seconds=60.0)
    stuck = vitals(sign_seconds=160.0, asked_seconds=100.5)
    assert cause_of_death(stuck, patience, 160.4) is None
    assert "computed nothing for 60 s" in (cause_of_death(stuck, patience, 161.0) or "")
    assert cause_of_death(vitals(sign_seconds=160.0), patience, 161.0) is None


# --- engines -------------------------------------------------------------------------------------


async def test_ready_once_a_token_was_computed(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:latency_ms=300")})
    status = await rig.until_state("ready")
    assert not status.answers
    assert status.error == "the engine has not computed its first token yet"
    assert not rig.serving.readiness().ready
    status = await rig.until(lambda status: status.answers)
    assert status.error is None
    assert rig.serving.readiness().ready
    assert "hearth_output_tokens_total{" not in rig.metrics.render().decode()


async def test_an_idle_engine_is_asked_again_and_again(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:")}, patience=Patience(probe_seconds=0.5))
    await rig.until(lambda status: status.answers)
    await asyncio.sleep(4.5)
    assert rig.serving.model("m").answers
    assert await read(rig.ask())


async def test_an_engine_that_beats_and_does_not_answer_is_not_ready(start: Start) -> None:
    rig = start({"m": ModelConfig(path="stubborn")}, scripted=True)
    status = await rig.until_state("ready")
    await asyncio.sleep(0.5)
    assert not rig.serving.model("m").answers
    assert status.state == "ready"


async def test_a_busy_engine_that_gets_on_is_ready(start: Start) -> None:
    """One request fills the only seat; its prompt takes many steps that give no token."""
    model = ModelConfig(path="sim:latency_ms=120", concurrency=1, step_tokens=16)
    rig = start({"m": model}, patience=Patience(probe_seconds=0.2))
    await rig.until(lambda status: status.answers)
    long = asyncio.create_task(read(rig.ask("x" * 1000, max_tokens=1)))
    silent = 0
    while not long.done():
        silent += not rig.serving.model("m").answers
        await asyncio.sleep(0.02)
    assert await long
    assert not silent


async def test_a_step_that_hangs_is_not_asked_to_be_forgiven(start: Start) -> None:
    patience = Patience(step_timeout_seconds=1.5, probe_seconds=0.2)
    rig = start({"m": ModelConfig(path="sim:hang_after=3")}, patience=patience)
    await rig.until(lambda status: status.answers)
    await rig.until(lambda status: status.n_restarts == 1)


def test_a_stopped_engine_is_told_within_five_seconds_and_replaced(tmp_path: Path) -> None:
    with running(tmp_path, "--model", "m=sim:") as daemon:
        daemon.until_ready()
        pid = daemon.model()["engine_pid"]
        assert daemon.get("/readyz")[1]["models"][0]["answers"]
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        while daemon.get("/readyz")[0] == 200:
            assert time.monotonic() - began < 10
            time.sleep(0.05)
        took = time.monotonic() - began
        said = daemon.get("/readyz")[1]["models"][0]
        assert took < 5.0
        assert "no sign of life" in said["error"]
        daemon.until(lambda: daemon.model()["engine_pid"] not in (pid, None))
        daemon.until_ready()
        _check_it_answers(daemon)


def test_a_daemon_that_stood_still_does_not_blame_its_engine(tmp_path: Path) -> None:
    with running(tmp_path, "--model", "m=sim:", "--set", "engine.heartbeat_seconds=2") as daemon:
        daemon.until_ready()
        pid = daemon.model()["engine_pid"]
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(4.0)
        daemon.process.send_signal(signal.SIGCONT)
        assert daemon.get("/readyz")[0] == 200
        time.sleep(1.5)
        assert daemon.model()["engine_pid"] == pid
        _check_it_answers(daemon)


def _check_it_answers(daemon: Daemon) -> None:
    body = {"model": "m", "prompt": "x", "max_tokens": 2}
    assert daemon.get("/v1/completions", body)[0] == 200
