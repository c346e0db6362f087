"""Stages in processes of their own: the same answers, the same errors, and what is left when one of them is gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress

import numpy as np
import psutil
import pytest
from engine_process import EngineProcess
from engine_rig import Rig
from sim_oracle import expected

from hearth_backends import registry
from hearth_backends.base import Batch, Stage
from hearth_backends.errors import BackendError, CapacityError, StepError, Unsupported
from hearth_backends.kv.contract import Placement
from hearthd import wire
from hearthd.engine.load_plan import plan_load
from hearthd.engine.loader import load_stage
from hearthd.engine.stages.remote import RemoteStage, StageLost

GREEDY = wire.Sampling(temperature=0.0)
CHANCE = wire.Sampling(
    temperature=1.0, seed=7, top_p=0.9, repetition_penalty=1.3, n_logprobs=3, logit_bias=[(5, 2.0)]
)
SIM = "sim:layers=4"


def two(path: str = SIM) -> list[wire.StageConfig]:
    """A plan of two stages, both in processes of their own."""
    n = registry.open_model(path).spec.n_layers
    return [
        wire.StageConfig("sim", layers=(0, n // 2), own_process=True),
        wire.StageConfig("sim", layers=(n // 2, n), own_process=True),
    ]


def remote_stages(rig: Rig) -> list[RemoteStage]:
    return [stage for stage in rig.core.pipeline.stages if isinstance(stage, RemoteStage)]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """One pipeline for the tests that leave it whole."""
    with Rig(SIM, prefix_ram_bytes=1 << 20, kv_tokens=1024, stages=two()) as rig:
        yield rig


@pytest.mark.parametrize("sampling", [GREEDY, CHANCE], ids=["greedy", "chance"])
def test_answers_are_those_of_stages_in_one_process(rig: Rig, sampling: wire.Sampling) -> None:
    assert len({os.getpid(), *(stage.pid for stage in remote_stages(rig))}) == 3
    prompts = [range(3, 3 + n) for n in (1, 20, 90)]
    rids = [rig.submit(prompt, sampling, max_tokens=9, ignore_eos=True) for prompt in prompts]
    answers = rig.run()
    with Rig(SIM, n_stages=2) as here:
        for rid, prompt in zip(rids, prompts, strict=True):
            alone = here.answer(prompt, sampling, max_tokens=9, ignore_eos=True)
            assert answers[rid].tokens == alone.tokens
            assert answers[rid].logprobs == alone.logprobs
    rig.assert_nothing_leaked()


def test_a_step_that_fails_is_repeated() -> None:
    path = f"{SIM},fail_every=3"
    with Rig(path, stages=two(path)) as rig:
        prompt = list(range(5, 45))
        answer = rig.answer(prompt, GREEDY, max_tokens=8, ignore_eos=True)
        assert answer.tokens == expected(SIM, prompt, GREEDY, max_tokens=8)
        assert rig.core.counters.n_step_failures


@pytest.mark.parametrize(
    ("path", "error"),
    [(f"{SIM},fail_every=1", StepError), (f"{SIM},starve_every=1", CapacityError)],
)
def test_an_error_is_the_one_that_the_stage_raised(path: str, error: type[BackendError]) -> None:
    with closing(one_stage(path)) as stage, pytest.raises(error, match="as it was told"):
        stage.submit(row(), None)


def test_a_load_that_fails_says_why_and_leaves_no_process() -> None:
    before = set(psutil.Process().children())
    with pytest.raises(BackendError, match="no such luck"):
        one_stage(f"{SIM},fail_load=no such luck")
    assert set(psutil.Process().children()) <= before


def test_progress_is_told() -> None:
    told: list[float] = []
    one_stage(f"{SIM},load_seconds=0.05", told).close()
    assert told == sorted(told)
    assert len(told) > 5


def test_what_is_closed_has_no_process_and_no_memory() -> None:
    stage = one_stage(SIM)
    assert isinstance(stage, RemoteStage)
    process = psutil.Process(stage.pid)
    stage.close()
    stage.close()
    assert not process.is_running()


def test_large_arrays_are_not_sent(rig: Rig) -> None:
    """A step of more rows than the socket would take in one piece, and a state that no region holds."""
    stage = one_stage(f"{SIM},context=4096", n_rows=4096)
    with closing(stage):
        hidden = stage.poll(stage.submit(row(4000), None))
        assert isinstance(hidden, np.ndarray)
        assert hidden.shape == (4000, 5)
        assert hidden.flags.owndata
        placement = Placement(0, tuple(range(1, 251)))
        blob = stage.export(placement, 4000)
        assert stage.restore(placement, blob, 3000) == 3000


def test_processors_are_kept_to() -> None:
    cpu = min(os.sched_getaffinity(0))
    stage = one_stage(SIM, cpus=(cpu,))
    with closing(stage):
        assert isinstance(stage, RemoteStage)
        assert stage.spec.threads == 1
        assert psutil.Process(stage.pid).cpu_affinity() == [cpu]


def test_processors_that_are_not_there_are_refused() -> None:
    with pytest.raises(Unsupported, match="cannot keep to processors 1022"):
        one_stage(SIM, cpus=(1022,))


def test_a_killed_stage_is_a_typed_loss() -> None:
    with Rig(SIM, stages=two()) as rig:
        rig.submit(range(5, 25), GREEDY, max_tokens=100, ignore_eos=True)
        rig.step()
        os.kill(remote_stages(rig)[0].pid, signal.SIGKILL)
        with pytest.raises(StageLost, match=r"layers 0 to 1 on sim was ended by SIGKILL"):
            rig.run()


def test_an_engine_that_loses_a_stage_says_so_and_ends() -> None:
    with EngineProcess() as engine:
        load_cut(engine, f"{SIM},latency_ms=5")
        engine.send(wire.Submit(1, GREEDY, text="x", max_tokens=400, ignore_eos=True))
        engine.wait_for(wire.Step)
        (first, *_) = psutil.Process(engine.process.pid).children()
        first.kill()
        failed = engine.wait_for(wire.Failed)
        assert failed.code == "stage_lost"
        assert f"the process {first.pid} of layers" in failed.message
        assert engine.exit_status() == 1


def test_stages_end_with_an_engine_that_is_killed() -> None:
    with EngineProcess() as engine:
        load_cut(engine, SIM)
        stages = psutil.Process(engine.process.pid).children()
        assert len(stages) == 2
        engine.process.kill()
        _, alive = psutil.wait_procs(stages, timeout=10)
        assert not alive


def test_a_stage_ends_where_its_engine_closes_the_socket() -> None:
    """Also where the kernel's word of the parent's death never comes."""
    ours, theirs = socket.socketpair()
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "hearthd.engine", "--stage", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
        )
    ours.close()
    try:
        assert child.wait(20) == 0
    finally:
        with suppress(ProcessLookupError):
            child.kill()


def load_cut(engine: EngineProcess, path: str) -> None:
    engine.load(path, stages=two(path))


def one_stage(
    path: str, told: list[float] | None = None, n_rows: int = 64, cpus: tuple[int, ...] = ()
) -> Stage:
    """The first half of a model in a process of its own."""
    n = registry.open_model(path).spec.n_layers
    first = wire.StageConfig("sim", layers=(0, n // 2), own_process=True, cpus=cpus)
    second = wire.StageConfig("sim", layers=(n // 2, n))
    plan = plan_load(
        wire.Load(
            "m", path, context=4096, concurrency=2, step_tokens=n_rows, stages=[first, second]
        )
    )
    told = [] if told is None else told
    return load_stage(plan.model.spec, plan.stages[0], (), told.append)


def row(n: int = 1) -> Batch:
    """n rows of one sequence."""
    return Batch(
        tokens=np.arange(n, dtype=np.int32) % 200,
        seq=np.zeros(n, np.int32),
        pos=np.arange(n, dtype=np.int32),
        want=np.zeros(n, np.bool_),
        ops=(),
        placements=(Placement(0, tuple(range(1, n // 16 + 2))),),
        sampling=None,
    )
