"""LoRA adapters in the engine: who is computed with which, whose prefixes are whose, and whose turn it is."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from engine_rig import Rig
from hypothesis import given
from hypothesis import strategies as st
from sim_oracle import language_of, params_of

from hearth_backends.sim.clock import SimClock
from hearth_backends.sim.language import oracle
from hearthd import wire
from hearthd.engine.adapter_turns import AdapterTurns
from hearthd.engine.refused import Refused

LORA = [wire.AdapterConfig(name, f"sim:{name}") for name in ("one", "two", "three")]
NAMES = (None, "one", "two", "three")
PROMPT = list(b"a prompt of some length, long enough for blocks")


def expected(path: str, prompt: list[int], adapter: str | None, n: int) -> list[int]:
    language = language_of(path, f"sim:{adapter}" if adapter else "")
    greedy = params_of(wire.Sampling(temperature=0.0))
    return oracle(language, prompt, greedy, n, end_ids=frozenset())


@pytest.mark.parametrize("path", ["sim:", "sim:adapters=1", "sim:adapters=2,variant=slots", "sim:depth=1,adapters=1"])  # fmt: skip
@pytest.mark.parametrize("n_stages", [1, 2])
def test_each_is_computed_with_its_own(path: str, n_stages: int) -> None:
    with Rig(path, n_stages=n_stages, lora=LORA, concurrency=16) as rig:
        asked = [(name, [*PROMPT, i]) for i in range(3) for name in NAMES]
        rids = [
            rig.submit(prompt, max_tokens=20, ignore_eos=True, adapter=name)
            for name, prompt in asked
        ]
        rig.run()
        for rid, (name, prompt) in zip(rids, asked, strict=True):
            assert rig.answers[rid].output == expected(path, prompt, name, 20)
        rig.assert_nothing_leaked()


def test_a_prefix_is_found_under_its_own_adapter_only() -> None:
    with Rig("sim:", lora=LORA) as rig:
        cached = []
        for name in ("one", "one", "two", None, None):
            usage = rig.answer(PROMPT, max_tokens=2, ignore_eos=True, adapter=name).usage
            assert usage is not None
            cached.append(usage.n_cached)
    assert cached == [0, 32, 0, 0, 32]


def test_an_adapter_that_is_not_there_is_not_found() -> None:
    frame = wire.Submit(rid=1, sampling=wire.Sampling(), text="x", adapter="four")
    with (
        Rig("sim:", lora=LORA) as rig,
        pytest.raises(Refused, match="no adapter 'four'") as refused,
    ):
        rig.intake.submit(frame)
    assert (refused.value.frame.status, refused.value.frame.code) == (404, "model_not_found")


def test_guesses_are_made_beside_adapters() -> None:
    """Of the request's own text, and by a draft model, which has no adapter."""
    path = "sim:adapters=1"
    for options in ({"gated": True}, {"draft": "sim:seed=1"}):
        with Rig(path, lora=LORA, **options) as rig:
            for name in NAMES:
                answer = rig.answer(PROMPT * 2, max_tokens=24, ignore_eos=True, adapter=name)
                assert answer.output == expected(path, PROMPT * 2, name, 24)


# --- turns -------------------------------------------------------------------------------------


def test_turns_last_a_while_and_come_round() -> None:
    turns = AdapterTurns(1, 1.0)
    served: list[int] = []
    for now in range(0, 80, 1):
        first = turns.order([0, 1, 2], now / 4)[0]
        turns.serve(first, now / 4)
        served += first
    assert served[:12] == [0] * 4 + [1] * 4 + [2] * 4
    assert set(Counter(served[:72]).values()) == {24}


def test_who_has_nothing_to_do_is_passed_over() -> None:
    turns = AdapterTurns(1, 1.0)
    turns.serve(frozenset({1}), 0.0)
    assert turns.order([1, 2], 0.5) == [frozenset({1}), frozenset({2})]
    assert turns.order([2], 0.5) == [frozenset({2})]
    assert turns.order([1, 2], 1.5) == [frozenset({2}), frozenset({1})]
    assert AdapterTurns(2, 1.0).order([1, 2, 3], 0.0) == [frozenset({1, 2}), frozenset({3})]


@given(st.lists(st.sets(st.integers(0, 4), min_size=1), min_size=1, max_size=60))
def test_who_keeps_wanting_is_served_within_a_round(steps: list[set[int]]) -> None:
    turns = AdapterTurns(1, 0.0)
    waits: Counter[int] = Counter()
    for now, wanting in enumerate(steps):
        (chosen,) = turns.order(wanting, now)[0]
        turns.serve(frozenset({chosen}), now)
        waits = Counter({a: waits[a] + 1 for a in wanting if a != chosen})
        assert max(waits.values(), default=0) < 5


def test_streams_of_all_adapters_get_on_while_one_has_much_to_do() -> None:
    """A flood of one adapter's prompts does not keep the others from a token for long."""
    clock = SimClock()
    with Rig(
        "sim:adapters=1", clock=clock, lora=LORA, concurrency=8, context=1024, step_tokens=128
    ) as rig:
        flood = [
            rig.submit([*PROMPT * 8, i], max_tokens=40, ignore_eos=True, adapter="one")
            for i in range(5)
        ]
        others = [
            rig.submit(PROMPT, max_tokens=10, ignore_eos=True, adapter=name)
            for name in ("two", "three", None)
        ]
        while any(rig.answers[rid].finish is None for rid in others):
            rig.step()
        assert all(rig.answers[rid].finish is None for rid in flood)
        rig.run()
        for rid, name in zip(others, ("two", "three", None), strict=True):
            assert rig.answers[rid].output == expected("sim:adapters=1", PROMPT, name, 10)
        rig.assert_nothing_leaked()


def test_one_who_waits_with_another_adapter_is_let_in() -> None:
    """Seats are free, and those who run never stop."""
    clock = SimClock()
    with Rig("sim:adapters=1", clock=clock, lora=LORA, context=4096) as rig:
        rig.submit(PROMPT, max_tokens=2000, ignore_eos=True, adapter="one")
        for _ in range(5):
            rig.step()
        late = rig.submit(PROMPT, max_tokens=1, ignore_eos=True, adapter="two")
        began = clock()
        while rig.answers[late].finish is None:
            rig.step()
        assert clock() - began < 0.2


@pytest.mark.parametrize("path", ["sim:adapters=1,variant=slots", "sim:adapters=1,wants=2"])
def test_what_alternates_within_an_adapter_is_not_thrown_off_by_turns(path: str) -> None:
    """Turns of one step each: prompts and decoding take turns within each adapter all the same."""
    clock = SimClock()
    sizes: dict[str, Any] = {
        "concurrency": 12,
        "context": 2048,
        "step_tokens": 16,
        "itl_target_seconds": 1e-6,
    }
    with Rig(path, clock=clock, lora=LORA, **sizes) as rig:
        endless = [
            rig.submit([*PROMPT, i], max_tokens=1500, ignore_eos=True, adapter=name)
            for name in ("one", "two")
            for i in range(4)
        ]
        for _ in range(200):
            rig.step()
        late = [
            rig.submit(PROMPT * 3, max_tokens=2, ignore_eos=True, adapter=name)
            for name in ("one", "two")
        ]
        for _ in range(300):
            rig.step()
        assert all(rig.answers[rid].finish for rid in late)
        said = [len(rig.answers[rid].tokens) for rid in endless]
        assert min(said) * 2 > max(said) > 0
