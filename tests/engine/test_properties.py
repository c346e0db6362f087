"""Whatever arrives, is cancelled, preempted, drafted or fails: every request gets the oracle's tokens."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from eager_drafter import EagerDrafter
from engine_rig import Answer, Rig
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sim_oracle import ScriptedDrafter, expected

from hearthd import wire
from hearthd.engine import policy

AT_LENGTH = int(os.environ.get("HEARTH_EXAMPLES", "500"))
PATH = "sim:layers=2,context=256"
KV_TOKENS = 160
"""Room for less than two of the largest requests below, so that requests preempt each other."""

FAMILY = (
    b"It was the best of times, it was the worst of times, it was the age of wisdom, it was the age"
)
"""Prompts begin with some of this, so that they share prefixes."""


@dataclass(frozen=True)
class World:
    """An engine and what goes wrong in it."""

    path: str
    n_stages: int
    concurrency: int
    step_tokens: int
    kv_tokens: int
    wrong_every: int | None  # None: nothing is drafted
    draft: str | None = None  # the path of a draft model
    gated: bool = False  # it is asked where it pays, otherwise always


@dataclass(frozen=True)
class Ask:
    """A request, when it comes and when its client goes."""

    prompt: list[int]
    sampling: wire.Sampling
    max_tokens: int
    min_tokens: int
    ignore_eos: bool
    n_emitted: int
    priority: int
    arrival: int
    gone: int | None

    def expected(self) -> list[int]:
        return expected(
            PATH,
            self.prompt,
            self.sampling,
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            ignore_eos=self.ignore_eos,
        )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    variant = draw(st.sampled_from(["blocks", "slots", "cells", "states"]))
    options = {
        "variant": variant,
        "depth": draw(st.integers(0, 1)),
        "mixed": draw(st.sampled_from([-1, 0, 1])),
        "wants": draw(st.sampled_from([0, 0, 1, 3])),
        "states": draw(st.sampled_from([2, 32])),
        **draw(
            st.sampled_from([{}, {}, {"fail_every": 5}, {"fail_every": 7}, {"starve_every": 6}])
        ),
    }
    step_tokens = draw(st.sampled_from([1, 7, 16, 64, 256]))
    for fault in {"fail_every", "starve_every"} & set(options):
        if variant == "states":  # each failure sends them back: they need steps between failures
            options[fault], step_tokens = 23, 256
    return World(
        path=PATH + "".join(f",{name}={value}" for name, value in options.items()),
        n_stages=draw(st.integers(1, 2)),
        concurrency=draw(st.integers(1, 6)),
        step_tokens=step_tokens,
        kv_tokens=draw(st.sampled_from([KV_TOKENS, KV_TOKENS, 2048])),
        wrong_every=draw(st.sampled_from([None, None, 0, 1, 2, 5])),
    )


@st.composite
def drafted_worlds(draw: st.DrawFn) -> World:
    """Worlds with a draft model, in which it may go wrong with that as much as with the other."""
    target = draw(st.sampled_from(["blocks", "slots,mixed=1", "cells"]))
    fault = draw(st.sampled_from(["", "", "fail_every=5", "starve_every=6"]))
    small = {
        "seed": draw(st.sampled_from([1, 1, 9])),  # thinks the same, or otherwise
        "variant": draw(st.sampled_from(["blocks", "slots", "cells"])),
        "depth": draw(st.integers(0, 1)),
        "mixed": draw(st.sampled_from([-1, 0, 1])),
        "wants": draw(st.sampled_from([0, 0, 1, 3])),
        "context": draw(st.sampled_from([256, 256, 64])),
        **draw(
            st.sampled_from([{}, {}, {"fail_every": 2}, {"fail_every": 1}, {"starve_every": 6}])
        ),
    }
    return World(
        path=",".join(filter(None, (f"{PATH},variant={target}", fault))),
        n_stages=draw(st.integers(1, 2)),
        concurrency=draw(st.integers(1, 6)),
        step_tokens=draw(st.sampled_from([7, 16, 64, 256])),
        kv_tokens=draw(st.sampled_from([KV_TOKENS, 2048])),
        wrong_every=None,
        draft="sim:layers=2" + "".join(f",{name}={value}" for name, value in small.items()),
        gated=draw(st.sampled_from([False, False, True])),
    )


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    n_shared = draw(st.integers(1, len(FAMILY)))
    suffix = draw(st.lists(st.integers(32, 126), max_size=20))
    sampling = wire.Sampling(
        temperature=draw(st.sampled_from([0.0, 0.0, 1.0])),
        top_k=draw(st.sampled_from([0, 5])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.7])),
        seed=draw(st.integers(0, 2**64 - 1)),
    )
    max_tokens = draw(st.integers(1, 24))
    return Ask(
        prompt=list(FAMILY[:n_shared]) + suffix,
        sampling=sampling,
        max_tokens=max_tokens,
        min_tokens=draw(st.sampled_from([0, 0, max_tokens // 2])),
        ignore_eos=draw(st.booleans()),
        n_emitted=draw(st.sampled_from([0, 0, 0, 3, 17])),
        priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
        arrival=draw(st.integers(0, 12)),
        gone=draw(st.sampled_from([None, None, None, 1, 4, 11])),
    )


def crowds(most: int) -> st.SearchStrategy[list[Ask]]:
    """Up to `most` requests, as often many as few."""
    return st.integers(1, most).flatmap(lambda n: st.lists(asks(), min_size=n, max_size=n))


def play(world: World, requests: list[Ask]) -> None:
    """Run requests through an engine and compare all that they get."""
    outputs = {rid: ask.expected() for rid, ask in enumerate(requests, 1)}
    drafter = ScriptedDrafter(outputs, world.wrong_every or 0)
    with Rig(
        world.path,
        n_stages=world.n_stages,
        concurrency=world.concurrency,
        step_tokens=world.step_tokens,
        kv_tokens=world.kv_tokens,
        context=128 + 32,
        draft=world.draft,
        gated=world.gated,
    ) as rig:
        if world.wrong_every is not None and not policy.draft_refusal(rig.core.pipeline.caps):
            rig.core.scheduler.draft_with(drafter)
        _drive(rig, requests, outputs)
        for rid, ask in enumerate(requests, 1):
            if ask.gone is None:
                check(rig.answers[rid], ask, outputs[rid])
        rig.assert_nothing_leaked()
        if "every" not in world.path:
            assert not rig.core.counters.n_step_failures
        event(f"preempted: {rig.core.scheduler.n_preemptions > 0}")
        event(f"drafted: {drafter.n_proposed > 0}")
        event(f"cached: {rig.core.counters.n_cached_tokens > 0}")
        eager = rig.core.scheduler.drafter
        if isinstance(eager, EagerDrafter) and "seed=1," in (world.draft or ""):
            assert eager.n_accepted == eager.n_proposed  # what it remembers is what was said
            event(f"draft model guessed right: {eager.n_accepted > 0}")
        if rig.draft_model is not None:
            event(f"draft model failed: {rig.draft_model.failure is not None}")
            event(f"draft model guessed: {rig.draft_model.costs.of(1) is not None}")


def _drive(rig: Rig, requests: list[Ask], outputs: dict[int, list[int]]) -> None:
    """Submit in the order of the list, each at its step or later; cancel in between."""
    waiting = list(enumerate(requests, 1))
    goes: dict[int, int] = {}
    while waiting or rig.core.has_work:
        while waiting and waiting[0][1].arrival <= rig.n_steps:
            rid, ask = waiting.pop(0)
            emitted = outputs[rid][: min(ask.n_emitted, len(outputs[rid]) - 1)]
            rig.submit(
                ask.prompt,
                ask.sampling,
                max_tokens=ask.max_tokens,
                min_tokens=ask.min_tokens,
                ignore_eos=ask.ignore_eos,
                priority=ask.priority,
                emitted=emitted,
            )
            rig.answers[rid].tokens += emitted
            if ask.gone is not None:
                goes[rid] = rig.n_steps + ask.gone
        for rid in [rid for rid, step in goes.items() if step <= rig.n_steps]:
            del goes[rid]
            rig.cancel(rid)
        rig.step()
        assert rig.n_steps < 5000, "the engine does not come to an end"


def check(answer: Answer, ask: Ask, output: list[int]) -> None:
    ends = not ask.ignore_eos and output[-1] in (257, 259)
    assert answer.output == output
    assert answer.finish == ("stop" if ends else "length")
    assert answer.usage is not None
    assert answer.usage.n_prompt == len(ask.prompt)
    assert answer.usage.n_output == len(output)
    assert 0 <= answer.usage.n_cached < len(ask.prompt) + len(output)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), crowds(7))
def test_every_request_gets_the_tokens_of_the_oracle(world: World, requests: list[Ask]) -> None:
    play(world, requests)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drafted_worlds(), crowds(7))
def test_a_draft_model_changes_no_token_and_leaks_nothing(
    world: World, requests: list[Ask]
) -> None:
    play(world, requests)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=AT_LENGTH, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(drafted_worlds(), crowds(12))
def test_a_draft_model_changes_no_token_at_length(world: World, requests: list[Ask]) -> None:
    play(world, requests)


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=AT_LENGTH, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), crowds(12))
def test_every_request_gets_the_tokens_of_the_oracle_at_length(
    world: World, requests: list[Ask]
) -> None:
    play(world, requests)
