"""What the scheduler picks: order, budget, shapes, and that nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from engine_rig import Rig
from shells import StageShell

from hearth_backends.base import Batch, Handle, Hidden, Stage
from hearth_backends.sim.clock import SimClock, StepCost
from hearthd import wire

NOISE = "sim:layers=1"


class Recorder(StageShell):
    """Notes how many rows each sequence has in each step."""

    def __init__(self, inner: Stage, steps: list[list[int]]) -> None:
        super().__init__(inner)
        self._steps = steps

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        bounds = np.flatnonzero(np.r_[True, np.diff(batch.seq) != 0, True])
        self._steps.append(np.diff(bounds).tolist())
        return super().submit(batch, x)


def recording(steps: list[list[int]]) -> Callable[[Stage], Stage]:
    return lambda stage: Recorder(stage, steps)


def first_spoken(rig: Rig, limit: int = 1000) -> list[int]:
    """Requests in the order of their first delta."""
    order: list[int] = []
    while rig.core.has_work and limit:
        limit -= 1
        for delta in rig.step():
            if delta.rid not in order:
                order.append(delta.rid)
    return order


# --- order ---------------------------------------------------------------------------------------


def test_first_come_first_served_within_a_priority() -> None:
    with Rig(NOISE, concurrency=1) as rig:
        for level in (0, 0, 1, -1, 1, 0):
            rig.submit("a prompt", max_tokens=2, ignore_eos=True, priority=level)
        assert first_spoken(rig) == [3, 5, 1, 2, 6, 4]


def test_decoding_goes_before_prompts_and_prompts_go_in_chunks() -> None:
    steps: list[list[int]] = []
    with Rig(NOISE, step_tokens=16, concurrency=3, wrap=recording(steps)) as rig:
        rig.submit(b"x" * 8, max_tokens=9, ignore_eos=True)
        rig.step()
        rig.submit(b"y" * 40, max_tokens=1)
        rig.submit(b"z" * 10, max_tokens=1)
        rig.run()
    assert steps[:5] == [[8], [1, 15], [1, 15], [1, 10, 5], [1, 5]]
    assert all(sum(step) <= 16 for step in steps)


def test_a_request_that_does_not_fit_does_not_keep_out_a_more_urgent_one() -> None:
    with Rig(NOISE, context=128, kv_tokens=128, concurrency=3) as rig:
        rig.submit(b"a" * 64, max_tokens=30, ignore_eos=True)
        rig.step()
        rig.submit(b"b" * 90, max_tokens=2, ignore_eos=True)
        for _ in range(3):
            rig.step()
        rig.submit(b"c" * 4, max_tokens=2, ignore_eos=True, priority=1)
        assert first_spoken(rig) == [1, 3, 2]


def test_the_one_that_ranks_last_is_preempted_and_keeps_its_place() -> None:
    with Rig(NOISE, context=128, kv_tokens=128, concurrency=2) as rig:
        for letter in (b"a", b"b", b"c"):
            rig.submit(letter * 40, max_tokens=40, ignore_eos=True)
        finished: list[int] = []
        while rig.core.has_work:
            finished += [delta.rid for delta in rig.step() if delta.finish]
        assert finished == [1, 2, 3]
        assert rig.core.scheduler.n_preemptions


# --- shapes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_prompts", [3, 6])
def test_an_unmixed_stage_gets_one_prompt_or_decoding_and_both_go_on(n_prompts: int) -> None:
    steps: list[list[int]] = []
    path = NOISE + ",variant=slots"
    with Rig(path, step_tokens=8, concurrency=6, wrap=recording(steps)) as rig:
        for i in range(n_prompts):
            rig.submit(bytes([97 + i]) * (1 + 16 * i), max_tokens=12, ignore_eos=True)
        rig.run()
    assert all(len(step) == 1 or max(step) == 1 for step in steps)
    is_prompt = [max(step) > 1 for step in steps]
    assert not any(a and b for a, b in pairwise(is_prompt[2:])), "decoding waits for prompts"


def test_everybody_decodes_in_turn_where_not_all_fit_a_step() -> None:
    with Rig(NOISE + ",wants=2", concurrency=6) as rig:
        rids = [rig.submit(bytes([97 + i]), max_tokens=30, ignore_eos=True) for i in range(6)]
        for _ in range(40):
            rig.step()
        lengths = [len(rig.answers[rid].tokens) for rid in rids]
        assert max(lengths) - min(lengths) <= 6
        assert sum(lengths) >= 70


# --- many, and time ------------------------------------------------------------------------------


def test_256_at_once_in_virtual_time() -> None:
    clock = SimClock(StepCost(fixed_seconds=0.01, row_seconds=3e-5, context_seconds=0.0))
    with Rig(NOISE, concurrency=256, step_tokens=512, kv_tokens=65536, clock=clock) as rig:
        arrivals = [clock() + 0.002 * i for i in range(400)]
        started: dict[int, float] = {}
        todo = list(arrivals)
        while todo or rig.core.has_work:
            while todo and (todo[0] <= clock() or not rig.core.has_work):
                todo.pop(0)
                rig.submit(b"a prompt of %d" % len(todo), max_tokens=8, ignore_eos=True)
            for delta in rig.step():
                if delta.started_seconds is not None:
                    started[delta.rid] = delta.started_seconds
        waits = [started[i + 1] - arrivals[i] for i in range(400)]
        assert list(started.values()) == sorted(started.values())
        assert max(waits) < 0.1
        assert 0.8 < clock() < 3.0
        rig.assert_nothing_leaked()


def test_a_long_prompt_delays_those_who_decode_by_a_bounded_step() -> None:
    clock = SimClock(StepCost(fixed_seconds=0.01, row_seconds=1e-3, context_seconds=0.0))
    with Rig(NOISE, concurrency=4, step_tokens=32, context=1024, clock=clock) as rig:
        rid = rig.submit(b"decodes", max_tokens=60, ignore_eos=True)
        rig.step()
        rig.submit(b"L" * 900, max_tokens=4, ignore_eos=True)
        times: list[float] = []
        while rig.answers[rid].finish is None:
            times += [clock() for delta in rig.step() if delta.rid == rid]
        gaps = [b - a for a, b in pairwise(times)]
        assert max(gaps) <= 0.01 + 32 * 1e-3 + 1e-9


def test_penalised_requests_wait_for_their_token_and_others_do_not() -> None:
    path = NOISE + ",depth=1"
    sampling = wire.Sampling(temperature=0.0, repetition_penalty=1.4)
    with Rig(path) as rig:
        plain = rig.submit(b"plain", max_tokens=20, ignore_eos=True)
        penalised = rig.submit(b"other", sampling, max_tokens=20, ignore_eos=True)
        while rig.answers[plain].finish is None:
            rig.step()
        n_plain, n_penalised = (len(rig.answers[rid].tokens) for rid in (plain, penalised))
        assert n_plain == 20
        assert 8 <= n_penalised <= 12
