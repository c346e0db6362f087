"""Drafting: guesses come from the text, and are made only where they are measured to pay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth_backends.base import SamplingParams
from hearth_backends.kv.contract import Reservation
from hearth_backends.kv.hashing import HashChain
from hearthd.engine.costs import STALE_AFTER, StepCosts
from hearthd.engine.drafting.gate import PLAIN_EVERY, DraftGate
from hearthd.engine.drafting.lookup import PromptLookup
from hearthd.engine.drafting.widths import best_widths
from hearthd.engine.request import Limits, Request
from hearthd.engine.step import StepPlan

NOTHING_RESERVED = Reservation((), (), ())


def request(number: int, tokens: list[int]) -> Request:
    return Request(
        id=number,
        tokens=list(tokens),
        n_prompt=len(tokens),
        params=SamplingParams(),
        limits=Limits(max_output=10_000),
        chain=HashChain("d"),
    )


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 8))
def test_a_guess_is_what_followed_the_latest_longest_match(tokens: list[int], limit: int) -> None:
    lookup = PromptLookup()
    for n in range(len(tokens)):  # grows with the text, as in an engine
        lookup.guess(tokens[:n], limit)
    guess = lookup.guess(tokens, limit)
    if not guess.tokens:
        for n in (8, 5, 3, 2):
            ends = tokens[-n:]
            assert not any(tokens[i : i + n] == ends for i in range(len(tokens) - n))
        return
    n = guess.n_context
    at = max(i for i in range(len(tokens) - n) if tokens[i : i + n] == tokens[-n:])
    repeated = list(tokens[at + n :])
    while len(repeated) < limit:
        repeated += repeated
    assert guess.tokens == repeated[:limit]


def test_costs_between_two_widths_are_interpolated_and_beyond_the_last_flat() -> None:
    costs = StepCosts()
    costs.observe(1, 0.010)
    costs.observe(5, 0.030)
    assert costs.of(3) == pytest.approx(0.020)
    assert costs.of(9) == pytest.approx(0.030)
    assert StepCosts().of(1) is None


def test_a_cost_that_was_not_seen_for_long_is_forgotten() -> None:
    costs = StepCosts()
    costs.observe(4, 1.0)
    for _ in range(2 * STALE_AFTER):
        costs.observe(1, 0.010)
    assert not costs.known(4)
    assert costs.of(4) == pytest.approx(0.010)


def test_a_step_is_at_most_twice_as_wide_as_any_before() -> None:
    costs = StepCosts()
    sure = [[0.99 ** (j + 1) for j in range(15)]]
    seen = []
    costs.observe(1, 0.010)
    for _ in range(4):
        seen += best_widths(sure, costs, 100).widths
        costs.observe(1 + seen[-1], 0.010)
    assert seen == [1, 3, 7, 15]


def test_guesses_are_taken_where_they_pay_and_only_there() -> None:
    def costs(seconds: Callable[[int], float]) -> StepCosts:
        measured = StepCosts()
        for n_rows in range(1, 20):
            measured.observe(n_rows, seconds(n_rows))
        return measured

    def widths(rates: list[float], lengths: list[int], cost: StepCosts, n_spare: int) -> list[int]:
        chances = [
            [rate ** (j + 1) for j in range(n)] for rate, n in zip(rates, lengths, strict=True)
        ]
        return best_widths(chances, cost, n_spare).widths

    flat, linear = costs(lambda n: 0.01 + 0.0001 * n), costs(lambda n: 0.01 * n)
    assert widths([0.9], [8], flat, 8) == [8]
    assert widths([0.9], [8], linear, 8) == [0]
    assert widths([0.05], [8], costs(lambda n: 0.01 + 0.002 * n), 8) == [0]
    most, least = widths([0.9, 0.2], [4, 4], flat, 4)
    assert most > least
    assert sum(widths([0.9, 0.9], [8, 8], flat, 3)) == 3


def run(
    gate: DraftGate, n_steps: int, seconds: Callable[[int], float], text: Callable[[int], int]
) -> tuple[float, float]:
    """Decode one request; returns the seconds it took, and those it would have taken without guesses."""
    one = request(1, [text(i) for i in range(40)])
    spent = plain = 0.0
    for _ in range(n_steps):
        (draft,) = gate.propose([one], [100], 8)
        took = seconds(1 + len(draft))
        gained: list[int] = []
        for guess in [*draft, -1]:
            gained.append(text(len(one.tokens) + len(gained)))
            if guess != gained[-1]:
                break
        n = len(draft)
        plan = StepPlan(
            [one], [0], [1 + n], [n], [True], [0], NOTHING_RESERVED, 1 + n, is_decode=not n
        )
        gate.observe(plan, [len(gained)], took)
        one.tokens += gained
        spent += took
        plain += len(gained) * seconds(1)
    gate.forget(one)
    return spent, plain


def test_guesses_come_past_widths_that_do_not_pay() -> None:
    milliseconds = (16, 29, 36, 40, 62, 71, 75, 65, 84)  # as measured on two cores, Q4_0
    spent, plain = run(DraftGate(), 300, lambda n: milliseconds[n - 1] / 1000, lambda i: i % 23)
    assert plain / spent > 1.6


def test_a_repeating_text_gains() -> None:
    spent, plain = run(DraftGate(), 400, lambda n: 0.01 + 0.002 * n, lambda i: i % 20)
    assert plain / spent > 2


def test_nothing_is_guessed_where_lookup_is_off() -> None:
    spent, plain = run(DraftGate(lookup=False), 400, lambda n: 0.01 + 0.002 * n, lambda i: i % 20)
    assert spent == plain


@pytest.mark.parametrize("slope", [0.0005, 0.002, 0.01])
def test_a_text_that_only_seems_to_repeat_loses_next_to_nothing(slope: float) -> None:
    def text(i: int) -> int:
        return (i % 4 == 0) * 7 + (i % 4 != 0) * (i * 2654435761 % 1013)

    spent, plain = run(DraftGate(), 3000, lambda n: 0.01 + slope * n, text)
    assert plain / spent > 0.97


def test_now_and_then_a_step_goes_plain() -> None:
    gate = DraftGate()
    run(gate, 10, lambda _n: 0.01, lambda i: i % 20)
    one = request(2, [i % 20 for i in range(60)])
    widths = [len(gate.propose([one], [8], 8)[0]) for _ in range(2 * PLAIN_EVERY)]
    assert widths.count(0) >= 2
    assert max(widths) > 0


@pytest.mark.parametrize("slope", [0.0, 0.002])
def test_a_hiccup_of_the_machine_does_not_close_the_gate(slope: float) -> None:
    gate = DraftGate()
    run(gate, 100, lambda n: 0.01 + slope * n, lambda i: i % 20)
    for _ in range(5):
        run(gate, 1, lambda _n: 30.0, lambda i: i % 20)
    spent, plain = run(gate, 100, lambda n: 0.01 + slope * n, lambda i: i % 20)
    assert plain / spent > 2


@pytest.mark.parametrize("dear", [5.0, 20.0])
def test_a_step_that_is_dear_the_first_time_does_not_close_the_gate(dear: float) -> None:
    """Buffers and pages of a new width are had once; the machine may have a hiccup just then."""
    seen: set[int] = set()

    def seconds(n_rows: int) -> float:
        is_new = n_rows > 1 and n_rows not in seen
        seen.add(n_rows)
        return (0.01 + 0.002 * n_rows) * (dear if is_new else 1.0)

    gate = DraftGate()
    run(gate, 300, seconds, lambda i: i % 20)
    spent, plain = run(gate, 400, seconds, lambda i: i % 20)
    assert plain / spent > 1.8


def test_a_cost_is_believed_for_longer_the_more_often_it_was_measured() -> None:
    costs = StepCosts()
    costs.observe(4, 1.0)
    for _ in range(5):
        costs.observe(8, 1.0)
    for _ in range(100):
        costs.observe(1, 0.010)
    assert not costs.known(4)
    assert costs.known(8)
    costs.observe(4, 0.012)
    assert costs.of(4) == pytest.approx(0.012)
