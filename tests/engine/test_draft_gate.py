"""The gate with a draft model, on simulated time: it gains where the model is good, and loses next to nothing elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from engine_rig import Rig
from hypothesis import given
from hypothesis import strategies as st

from hearth_backends.sim.clock import SimClock, StepCost
from hearthd import wire
from hearthd.engine.costs import StepCosts
from hearthd.engine.drafting.gate import DraftGate
from hearthd.engine.drafting.offer import pays_to_follow
from hearthd.engine.drafting.purse import SHARE, Purse
from hearthd.engine.drafting.widths import Widths, best_depth

SIM = "sim:layers=2,context=4096"
LARGE = StepCost(fixed_seconds=20e-3, row_seconds=1e-3)
GREEDY = wire.Sampling(temperature=0.0)


class Beside(SimClock):
    """The same time, in which steps of another model cost something else."""

    def __init__(self, clock: SimClock, cost: StepCost) -> None:
        super().__init__(cost)
        self._clock = clock

    def __call__(self) -> float:
        return self._clock()

    def advance(self, seconds: float) -> None:
        self._clock.advance(seconds)


def seconds(
    draft: str | None,
    share: float,
    *,
    n_requests: int = 1,
    n_tokens: int = 400,
    n_prompt: int = 40,
    large: StepCost = LARGE,
    rounds: int = 1,
    path: str = SIM,
) -> tuple[float, DraftGate | None]:
    """Simulated time of some answers; a step of the draft model costs a share of the other's."""
    clock = SimClock(large)
    small = StepCost(large.fixed_seconds * share, large.row_seconds * share)
    with Rig(
        path,
        clock=clock,
        draft=draft,
        draft_clock=Beside(clock, small),
        gated=True,
        context=4096,
        kv_tokens=16384,
        concurrency=16,
        step_tokens=256,
    ) as rig:
        gate = rig.core.scheduler.drafter
        assert isinstance(gate, DraftGate)
        if draft is None:
            gate.close()
            rig.core.scheduler.drafter = gate = None
        for turn in range(rounds):
            for i in range(n_requests):
                prompt = [32 + (7 * j * j + 31 * i + 57 * turn) % 95 for j in range(n_prompt)]
                rig.submit(prompt, GREEDY, max_tokens=n_tokens, ignore_eos=True)
            rig.run()
        rig.assert_nothing_leaked()
        return clock(), gate


def test_a_good_model_makes_answers_come_faster() -> None:
    plain, _ = seconds(None, 0)
    drafted, gate = seconds("sim:layers=2,context=4096", 0.1)
    assert gate is not None
    assert plain / drafted > 2.0
    report = gate.report()
    assert report.accepted["model"] == report.guessed["model"] > 200
    assert report.gain == pytest.approx(plain / drafted, rel=0.25)
    assert 0 < report.model_seconds < drafted / 2


@pytest.mark.parametrize("n_requests", [1, 8])
@pytest.mark.parametrize("n_prompt", [40, 1500])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_useless_model_costs_next_to_nothing(
    share: float, n_prompt: int, n_requests: int
) -> None:
    given: dict[str, Any] = {
        "n_requests": n_requests,
        "n_prompt": n_prompt,
        "n_tokens": 500,
        "rounds": 2,
    }
    plain, _ = seconds(None, 0, **given)
    drafted, gate = seconds("sim:layers=2,seed=9,context=4096", share, **given)
    assert gate is not None
    assert plain / drafted > 0.97


@pytest.mark.parametrize("n_requests", [4, 16])
def test_where_rows_cost_as_much_as_steps_the_gate_stays_closed(n_requests: int) -> None:
    linear = StepCost(fixed_seconds=1e-4, row_seconds=10e-3)
    given: dict[str, Any] = {"n_requests": n_requests, "large": linear}
    plain, _ = seconds(None, 0, **given)
    drafted, _ = seconds("sim:layers=2,context=4096", 0.2, **given)
    assert plain / drafted > 0.97


def test_several_requests_are_guessed_for_in_one_step() -> None:
    plain, _ = seconds(None, 0, n_requests=6)
    drafted, gate = seconds("sim:layers=2,context=4096", 0.1, n_requests=6)
    assert gate is not None
    assert gate.offer is not None
    assert plain / drafted > 1.7
    assert gate.offer.model.costs.known(6)


def test_a_request_that_the_text_itself_foretells_needs_no_model() -> None:
    path = "sim:layers=2,context=4096,says=echo"
    _, gate = seconds("sim:layers=2,context=4096,says=echo", 0.1, path=path, n_prompt=300)
    assert gate is not None
    report = gate.report()
    assert report.accepted["lookup"] > 2 * report.accepted["model"]


def costs(seconds_of: dict[int, float]) -> StepCosts:
    measured = StepCosts()
    for n_rows, each in seconds_of.items():
        measured.observe(n_rows, each)
    return measured


def test_the_model_guesses_as_far_as_it_pays() -> None:
    flat = costs(dict.fromkeys(range(1, 20), 0.01))
    nothing = Widths([0], 1.0, 1.0)
    good, bad = [[0.9 ** (j + 1) for j in range(8)]], [[0.2 ** (j + 1) for j in range(8)]]
    assert best_depth(good, nothing, flat, lambda _: 0.0005, 8).n_tokens == 8
    assert 1 <= best_depth(good, nothing, flat, lambda _: 0.003, 8).n_tokens < 8
    assert not best_depth(bad, nothing, flat, lambda _: 0.003, 8).chosen
    assert not best_depth(good, nothing, flat, lambda _: 0.02, 8).chosen
    assert best_depth(good, nothing, flat, lambda _: 0.0005, 3).n_tokens == 3
    assert not best_depth(good, nothing, flat, lambda _: 0.0005, 0).chosen


def test_into_unknown_widths_it_goes_one_step_at_a_time() -> None:
    chances = [[0.9 ** (j + 1) for j in range(8)]]
    nothing = Widths([0], 1.0, 1.0)
    for known in range(1, 5):
        measured = costs(dict.fromkeys(range(1, known + 1), 0.01))
        assert best_depth(chances, nothing, measured, lambda _: 0.0001, 8).n_tokens == known


@given(
    st.lists(st.lists(st.floats(0.01, 1.0), max_size=8), min_size=1, max_size=6),
    st.integers(0, 20),
    st.floats(1e-4, 2e-2),
)
def test_never_more_than_there_is_room_for(
    rates: list[list[float]], n_spare: int, draft_seconds: float
) -> None:
    chances = [sorted(row, reverse=True) for row in rates]
    measured = costs({n: 0.01 + 0.0005 * n for n in range(1, 40)})
    others = Widths([0] * len(chances), float(len(chances)), 1.0)
    depth = best_depth(chances, others, measured, lambda _: draft_seconds, n_spare)
    assert len(set(depth.chosen)) == len(depth.chosen)
    assert sum(min(depth.n_tokens, len(chances[i])) for i in depth.chosen) <= n_spare
    assert (depth.gain > 1.0) == bool(depth.chosen)


def test_a_long_text_is_followed_for_a_long_answer_only() -> None:
    assert pays_to_follow(0.1, rest_seconds=1.0, gain=1.5)
    assert not pays_to_follow(0.1, rest_seconds=0.2, gain=1.5)
    assert not pays_to_follow(0.1, rest_seconds=1.0, gain=1.05)


def test_an_empty_purse_is_closed_until_some_has_gathered() -> None:
    purse = Purse(10.0)
    purse.settle(-9.0)
    assert purse.is_open
    purse.settle(-2.0)
    assert not purse.is_open
    n_steps = 0
    while not purse.is_open:
        purse.earn(1.0)
        n_steps += 1
    assert n_steps >= 1.0 / SHARE
