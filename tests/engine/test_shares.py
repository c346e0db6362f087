"""Fair shares, classes, turns, deadlines and chunk sizes, in virtual time on the simulated model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from engine_rig import Rig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hearth_backends.sim.clock import SimClock, StepCost
from hearthd.engine.costs import PLAIN_STEPS

INTERACTIVE, NORMAL, BATCH = 1, 0, -1
NOISE = "sim:layers=1"
COST = StepCost(fixed_seconds=0.01, row_seconds=5e-4, context_seconds=0.0)


@dataclass
class Client:
    """Sends request after request, so that `n_waiting` of them are always there."""

    key: str
    level: int = NORMAL
    weight: float = 1.0
    n_waiting: int = 4
    n_prompt: int = 12
    n_output: int = 16
    from_seconds: float = 0.0
    until_seconds: float = 1e9
    pause_seconds: float = 0.0  # after each answer
    rids: list[int] = field(default_factory=list)


class Town:
    """Clients of one engine, and what each of them was served."""

    def __init__(
        self, *clients: Client, path: str = NOISE, cost: StepCost = COST, **sizes: Any
    ) -> None:
        self.clock = SimClock(cost)
        defaults: dict[str, Any] = {"concurrency": 4, "kv_tokens": 4096, "step_tokens": 64}
        self.rig = Rig(path, clock=self.clock, **{**defaults, **sizes})
        self.clients = clients
        self.submitted: dict[int, float] = {}
        self.first: dict[int, float] = {}  # token of each request
        self.ended: dict[int, float] = {}
        self.served: Counter[str] = Counter()
        self.owner: dict[int, str] = {}

    def run(self, seconds: float, each_step: Callable[[], None] = lambda: None) -> None:
        """Let time pass."""
        until = self.clock() + seconds
        while self.clock() < until:
            for client in self.clients:
                self._keep_busy(client)
            if not self.rig.core.has_work:
                self.clock.advance(0.01)
                continue
            for delta in self.rig.step():
                self.first.setdefault(delta.rid, self.clock())
                self.served[self.owner[delta.rid]] += len(delta.tokens)
                if delta.finish:
                    self.ended[delta.rid] = self.clock()
            each_step()

    def ask(self, client: Client, **fields: Any) -> int:
        prompt = [33 + len(self.submitted) % 90, *(37 + i % 80 for i in range(client.n_prompt - 1))]
        rid = self.rig.submit(
            prompt,
            max_tokens=client.n_output,
            ignore_eos=True,
            key=client.key,
            weight=client.weight,
            priority=client.level,
            **fields,
        )
        self.owner[rid] = client.key
        self.submitted[rid] = self.clock()
        client.rids.append(rid)
        return rid

    def waits(self, client: Client) -> list[float]:
        """Of each request of a client: until its first token, or until now."""
        now = self.clock()
        return [self.first.get(rid, now) - self.submitted[rid] for rid in client.rids]

    def _keep_busy(self, client: Client) -> None:
        if not client.from_seconds <= self.clock() < client.until_seconds:
            return
        if (
            client.rids
            and self.clock() < self.ended.get(client.rids[-1], -1e9) + client.pause_seconds
        ):
            return
        n_open = sum(rid not in self.ended for rid in client.rids[-client.n_waiting - 8 :])
        for _ in range(client.n_waiting - n_open):
            self.ask(client)


# --- shares --------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 2, 4, 7])
@pytest.mark.parametrize("weights", [(3.0, 1.0), (1.0, 1.0), (10.0, 1.0)])
def test_keys_get_tokens_by_their_weights(concurrency: int, weights: tuple[float, float]) -> None:
    a, b = (Client(key, weight=w, n_waiting=9) for key, w in zip("ab", weights, strict=True))
    town = Town(a, b, concurrency=concurrency)
    town.run(60.0)
    assert town.served["a"] / town.served["b"] == pytest.approx(weights[0] / weights[1], rel=0.1)


def test_tokens_are_shared_not_requests() -> None:
    """One key's requests are eight times as long as the other's."""
    a, b = Client("a", n_output=8, n_waiting=20), Client("b", n_output=64, n_waiting=20)
    town = Town(a, b)
    town.run(80.0)
    prompts = {c.key: sum(c.n_prompt for rid in c.rids if rid in town.first) for c in (a, b)}
    totals = {key: town.served[key] + prompts[key] for key in "ab"}
    assert totals["a"] / totals["b"] == pytest.approx(1.0, rel=0.15)


def test_a_flood_does_not_delay_a_key_that_asks_little() -> None:
    flood = Client("flood", n_waiting=100)
    modest = Client("modest", n_waiting=1)
    town = Town(flood, modest)
    town.run(30.0)
    waits = town.waits(modest)
    assert len(waits) > 30
    assert max(waits) < 0.6
    assert max(town.waits(flood)) > 3.0


def test_nobody_pays_for_time_in_which_nobody_else_wanted_anything() -> None:
    early = Client("early", n_waiting=9)
    late = Client("late", n_waiting=9, from_seconds=30.0)
    town = Town(early, late)
    town.run(30.0)
    before = town.served["early"]
    assert before > 500
    town.run(30.0)
    assert (town.served["early"] - before) / town.served["late"] == pytest.approx(1.0, rel=0.1)


def test_nobody_saves_up_a_claim() -> None:
    a = Client("a", n_waiting=9)
    gone = Client("gone", n_waiting=9, until_seconds=5.0)
    town = Town(a, gone)
    town.run(40.0)
    gone.until_seconds = 1e9
    before = town.served.copy()
    town.run(30.0)
    gained = {key: town.served[key] - before[key] for key in before}
    assert gained["gone"] / gained["a"] == pytest.approx(1.0, rel=0.1)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.0]), min_size=2, max_size=4),
    st.integers(1, 6),
    st.sampled_from(["blocks", "slots", "cells", "states"]),
    st.integers(0, 1),
)
def test_shares_of_any_keys(
    weights: list[float], concurrency: int, variant: str, depth: int
) -> None:
    clients = [Client(f"k{i}", weight=w, n_waiting=9) for i, w in enumerate(weights)]
    path = f"{NOISE},variant={variant},depth={depth}"
    town = Town(*clients, concurrency=concurrency, path=path)
    town.run(60.0)
    each = [town.served[client.key] / client.weight for client in clients]
    assert max(each) / min(each) < 1.25


# --- classes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("variant", ["blocks", "slots", "cells", "states"])
def test_interactive_does_not_feel_a_batch_key_at_full_load(variant: str, depth: int) -> None:
    def p95(*others: Client) -> float:
        person = Client("person", INTERACTIVE, n_waiting=1, pause_seconds=0.3)
        town = Town(person, *others, path=f"{NOISE},variant={variant},depth={depth}")
        town.run(30.0)
        waits = sorted(town.waits(person))
        return waits[int(0.95 * len(waits))]

    alone = p95()
    beside = p95(Client("batch", BATCH, n_waiting=20, n_output=200))
    assert beside < alone + 0.045  # a step of the batch is longer by its own rows


@pytest.mark.parametrize("depth", [0, 1])
def test_interactive_does_not_feel_batch_where_rows_are_dear(depth: int) -> None:
    """As on processors: a row of a prompt takes milliseconds, a whole step more than a second."""

    def p95(*others: Client) -> float:
        person = Client("person", INTERACTIVE, n_waiting=1, n_prompt=128, pause_seconds=0.3)
        town = Town(
            person, *others, path=f"{NOISE},depth={depth}", cost=StepCost(0.005, 0.003, 0.0),
            concurrency=8, context=1024, kv_tokens=8192, step_tokens=512,
        )  # fmt: skip
        town.run(60.0)
        waits = sorted(town.waits(person))
        assert len(waits) > 30
        return waits[int(0.95 * len(waits))]

    batch = Client("batch", BATCH, n_waiting=16, n_prompt=256, n_output=128)
    assert p95(batch) < 1.2 * p95()


def test_batch_that_stands_still_gets_a_turn() -> None:
    rush = Client("rush", INTERACTIVE, n_waiting=8, n_prompt=200, n_output=1)
    batch = Client("batch", BATCH, n_waiting=2, n_output=400, until_seconds=0.5)
    rush.from_seconds = 1.0
    town = Town(batch, rush, concurrency=10, context=1024, kv_tokens=16384, aging_seconds=2.0)
    town.run(2.0)
    before = town.served["batch"]
    assert before
    town.run(20.0)
    assert town.served["batch"] > before + 5


def test_batch_with_a_turn_decodes_while_others_wait_for_seats() -> None:
    """Who waits for a seat that no batch has to leave is not helped by batch that stands still."""
    crowd = Client("crowd", INTERACTIVE, n_waiting=12)
    batch = Client("batch", BATCH, n_output=100, until_seconds=0.0)
    town = Town(crowd, batch, aging_seconds=2.0)
    town.run(1.0)
    rid = town.ask(batch)
    town.run(10.0)
    assert rid in town.ended


def test_batch_gives_up_its_seat_and_loses_nothing() -> None:
    with Rig(NOISE, concurrency=2, kv_tokens=1024) as rig:
        batch = [
            rig.submit(bytes([65 + i]) * 40, max_tokens=60, ignore_eos=True, priority=BATCH)
            for i in range(2)
        ]
        for _ in range(10):
            rig.step()
        person = rig.submit(b"a person asks", max_tokens=5, ignore_eos=True, priority=INTERACTIVE)
        rig.step()
        assert rig.answers[person].tokens
        assert [r.id for r in rig.core.scheduler.running] == [batch[0], person]
        rig.run()
        usages = [rig.answers[rid].usage for rid in batch]
        assert [usage.n_preempted for usage in usages if usage] == [0, 1]
        assert all(len(rig.answers[rid].tokens) == 60 for rid in batch)
        rig.assert_nothing_leaked()
        seen = [rig.answers[rid].tokens for rid in batch]
    with Rig(NOISE, concurrency=2, kv_tokens=1024) as rig:
        again = [
            rig.answer(bytes([65 + i]) * 40, max_tokens=60, ignore_eos=True).tokens
            for i in range(2)
        ]
    assert seen == again


def test_who_was_to_give_way_goes_on_where_the_other_no_longer_waits() -> None:
    with Rig(f"{NOISE},depth=1", concurrency=1) as rig:
        batch = rig.submit(b"b", max_tokens=20, ignore_eos=True, priority=BATCH)
        rig.step()
        person = rig.submit(b"p", max_tokens=1, ignore_eos=True, priority=INTERACTIVE)
        rig.step()
        rig.cancel(person)
        rig.run()
        assert len(rig.answers[batch].tokens) == 20
        rig.assert_nothing_leaked()


def test_batch_gives_up_its_memory() -> None:
    with Rig(NOISE, concurrency=4, context=128, kv_tokens=256) as rig:
        for i in range(3):
            rig.submit(bytes([65 + i]) * 40, max_tokens=80, ignore_eos=True, priority=BATCH)
        for _ in range(12):
            rig.step()
        person = rig.submit(b"p" * 110, max_tokens=5, ignore_eos=True, priority=INTERACTIVE)
        for _ in range(4):
            rig.step()
        assert rig.answers[person].tokens
        rig.run()
        rig.assert_nothing_leaked()


@pytest.mark.parametrize("n_steps", range(5, 13))
@pytest.mark.parametrize("variant", ["cells", "blocks"])
def test_who_waits_has_no_place_in_memory(variant: str, n_steps: int) -> None:
    """One of two makes way while the other is in flight, and the prompt still does not fit."""
    path = f"sim:layers=2,variant={variant}"
    with Rig(path, n_stages=2, concurrency=3, kv_tokens=256, context=240) as rig:
        for first in b"AB":
            rig.submit(bytes([first]) * 50, max_tokens=40, ignore_eos=True, priority=BATCH)
        for _ in range(n_steps):
            rig.step()
        rig.submit(b"p" * 190, max_tokens=30, ignore_eos=True, priority=INTERACTIVE)
        scheduler = rig.core.scheduler
        while rig.core.has_work:
            rig.step()
            assert not any(scheduler.store.committed(r) for r in scheduler.waiting)
        assert scheduler.n_preemptions
        assert [len(answer.tokens) for answer in rig.answers.values()] == [40, 40, 30]
        rig.assert_nothing_leaked()


def test_normal_does_not_give_way_but_comes_later() -> None:
    with Rig(NOISE, concurrency=1) as rig:
        running = rig.submit(b"n", max_tokens=20, ignore_eos=True)
        rig.step()
        waiting = rig.submit(b"m", max_tokens=1, ignore_eos=True)
        person = rig.submit(b"p", max_tokens=1, ignore_eos=True, priority=INTERACTIVE)
        ends: list[int] = []
        while rig.core.has_work:
            ends += [delta.rid for delta in rig.step() if delta.finish]
        assert ends == [running, person, waiting]
        assert not rig.core.scheduler.n_preemptions


def test_a_more_urgent_prompt_goes_before_a_long_one_that_runs() -> None:
    with Rig(NOISE, concurrency=4, context=1024, step_tokens=16) as rig:
        rig.submit(b"l" * 900, max_tokens=1, ignore_eos=True)
        rig.step()
        person = rig.submit(b"p" * 20, max_tokens=1, ignore_eos=True, priority=INTERACTIVE)
        for _ in range(2):
            rig.step()
        assert rig.answers[person].finish


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    with Rig(NOISE, concurrency=4, context=1024, kv_tokens=4096, step_tokens=32) as rig:
        first = rig.submit(b"a" * 900, max_tokens=1, ignore_eos=True)
        second = rig.submit(b"b" * 33, max_tokens=1, ignore_eos=True)
        scheduler = rig.core.scheduler
        for _ in range(40):
            rig.step()
            if second in [r.id for r in scheduler.running]:
                break
        for _ in range(4):
            rig.step()
        assert rig.answers[second].finish
        rig.run()
        assert rig.answers[first].finish


# --- nobody starves ------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from([1.0, 2.0, 5.0]),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from(["blocks", "slots", "states"]),
    st.integers(0, 1),
)
def test_every_class_gets_turns(
    aging: float, concurrency: int, n_batch: int, variant: str, depth: int
) -> None:
    """The k-th of those that wait behind a permanent crowd begins within k times the time of aging."""
    crowd = Client("crowd", INTERACTIVE, n_waiting=12)
    others = Client("others", NORMAL, n_waiting=12)
    path = f"{NOISE},variant={variant},depth={depth}"
    town = Town(crowd, others, path=path, concurrency=concurrency, aging_seconds=aging)
    town.run(1.0)
    batch = Client("batch", BATCH)
    rids = [town.ask(batch) for _ in range(n_batch)]
    town.run((n_batch + 1) * aging + 2.0)
    for k, rid in enumerate(rids, 1):
        assert town.first[rid] - town.submitted[rid] <= k * aging + 1.0
    assert len(town.waits(crowd)) > 5
    assert town.served["crowd"] > 5 * town.served["batch"] or aging < 2.0
    assert town.served["others"] > 0


def test_a_flood_of_batch_does_not_become_urgent() -> None:
    person = Client("person", INTERACTIVE, n_waiting=4)
    flood = Client("flood", BATCH, n_waiting=200)
    town = Town(person, flood, aging_seconds=2.0)
    town.run(60.0)
    assert 25 * 16 <= town.served["flood"] <= 40 * 16
    assert town.served["person"] > 4 * town.served["flood"]
    assert max(town.waits(person)) < 1.0


# --- deadlines -----------------------------------------------------------------------------------


def test_what_waits_past_its_deadline_ends_in_the_queue() -> None:
    busy = Client("busy", n_waiting=1, n_output=100)
    town = Town(busy, concurrency=1)
    town.run(0.5)
    late = Client("late", n_output=2)
    rid = town.ask(late, deadline_seconds=town.clock() + 0.2)
    relaxed = town.ask(late, deadline_seconds=town.clock() + 100.0)
    town.run(0.3)
    answer = town.rig.answers[rid]
    assert answer.finish == "error"
    assert answer.error is not None
    assert answer.error[0] == "deadline_exceeded"
    assert not answer.tokens
    town.run(3.0)
    assert town.rig.answers[relaxed].finish == "length"


def test_a_prompt_that_cannot_be_computed_in_time_is_not_gone_on_with() -> None:
    town = Town(concurrency=2, context=2048)
    warm = Client("k", n_prompt=500, n_output=1)
    town.ask(warm)
    town.run(1.0)
    rid = town.ask(Client("k", n_prompt=1500, n_output=1), deadline_seconds=town.clock() + 0.3)
    fits = town.ask(Client("j", n_prompt=100, n_output=1), deadline_seconds=town.clock() + 0.6)
    before = town.clock()
    town.run(0.5)
    assert town.ended[rid] - before < 0.2
    assert town.rig.answers[rid].error is not None
    assert town.rig.answers[fits].finish == "length"
    town.rig.assert_nothing_leaked()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from([INTERACTIVE, NORMAL, BATCH]),
            st.sampled_from([None, 0.05, 0.3, 2.0]),
            st.integers(1, 90),
        ),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from(["blocks", "slots", "cells", "states"]),
    st.integers(0, 1),
    st.sampled_from(["", ",fail_every=29", ",starve_every=13"]),
)
def test_every_request_ends_in_one_way_and_nothing_is_left(
    asks: list[tuple[str, int, float | None, int]], variant: str, depth: int, fault: str
) -> None:
    town = Town(
        path=f"{NOISE},variant={variant},depth={depth}{fault}",
        concurrency=3,
        kv_tokens=256,
        context=160,
    )
    for i, (key, level, deadline, n_prompt) in enumerate(asks):
        client = Client(key, level, n_prompt=n_prompt, n_output=1 + i % 20)
        until = None if deadline is None else town.clock() + deadline
        rid = town.ask(client, deadline_seconds=until)
        if i % 3:
            town.run(0.02)
        if i % 7 == 6 and town.rig.answers[rid].finish is None:
            town.rig.cancel(rid)
            town.rig.answers[rid].finish = "cancelled"
    town.rig.run()
    for rid, (_, _, deadline, _) in enumerate(asks, 1):
        answer = town.rig.answers[rid]
        assert answer.finish in ("length", "stop", "cancelled") or deadline is not None
        if answer.finish == "error":
            assert answer.error is not None
            assert answer.error[0] == "deadline_exceeded"
    town.rig.assert_nothing_leaked()
    assert not town.rig.core.scheduler.shares.contended


# --- chunks --------------------------------------------------------------------------------------


def gaps_of_streams(*, itl_target_seconds: float, row_seconds: float) -> tuple[list[float], float]:
    """Between the tokens of seven streams while a prompt of 2000 comes, and until its first token."""
    clock = SimClock(StepCost(fixed_seconds=0.01, row_seconds=row_seconds, context_seconds=0.0))
    with Rig(
        NOISE, concurrency=8, context=4096, kv_tokens=32768, step_tokens=512, clock=clock,
        itl_target_seconds=itl_target_seconds,
    ) as rig:  # fmt: skip
        streams = [
            rig.submit(bytes([65 + i]) * 5, max_tokens=2000, ignore_eos=True) for i in range(7)
        ]
        for _ in range(30):
            rig.step()
        long, came = rig.submit(b"L" * 2000, max_tokens=2, ignore_eos=True), clock()
        times: dict[int, list[float]] = {rid: [clock()] for rid in streams}
        while not rig.answers[long].tokens:
            for delta in rig.step():
                if delta.rid in times:
                    times[delta.rid].append(clock())
        gaps = sorted(b - a for seen in times.values() for a, b in pairwise(seen))
        return gaps, clock() - came


@pytest.mark.parametrize("row_seconds", [1e-4, 1e-3, 4e-3])
def test_streams_go_on_at_the_target_beside_a_long_prompt(row_seconds: float) -> None:
    gaps, ttft = gaps_of_streams(itl_target_seconds=0.06, row_seconds=row_seconds)
    plain = 0.01 + 7 * row_seconds
    target = max(
        PLAIN_STEPS * plain * 8 / 7 if 2 * plain > 0.06 else 0.06, plain + 16 * row_seconds
    )
    assert gaps[int(0.95 * len(gaps))] <= 1.1 * target
    first = plain + 64 * row_seconds  # before a row was measured
    assert gaps[-1] <= max(1.1 * target, first + 1e-9)
    steps = 2000 * row_seconds / min(target - plain, 512 * row_seconds)
    assert ttft < 1.6 * max(steps, 4) * target + 0.5


def test_a_prompt_alone_takes_whole_steps() -> None:
    clock = SimClock(COST)
    with Rig(NOISE, context=2048, kv_tokens=4096, step_tokens=512, clock=clock) as rig:
        rig.submit(b"L" * 1024, max_tokens=1, ignore_eos=True)
        rig.run()
        assert rig.core.counters.n_steps == 2


def test_several_prompts_share_what_streams_leave_them() -> None:
    clock = SimClock(StepCost(fixed_seconds=0.01, row_seconds=1e-3, context_seconds=0.0))
    with Rig(
        NOISE, concurrency=4, context=2048, kv_tokens=8192, step_tokens=512, clock=clock
    ) as rig:
        rig.submit(b"stream", max_tokens=500, ignore_eos=True)
        for _ in range(5):
            rig.step()
        rig.submit(b"l" * 1500, max_tokens=1, ignore_eos=True)
        for _ in range(3):
            rig.step()
        short, came = rig.submit(b"s" * 30, max_tokens=1, ignore_eos=True), clock()
        while not rig.answers[short].finish:
            rig.step()
        assert clock() - came < 0.25


def first_tokens_of_a_wave(saturating: int) -> list[float]:
    """Seconds until eight prompts of 128 tokens, which came at once, have their first tokens."""
    clock = SimClock(StepCost(fixed_seconds=0.01, row_seconds=3e-3, context_seconds=0.0))
    with Rig(
        f"{NOISE},saturating={saturating}", concurrency=8, context=2048, kv_tokens=16384,
        step_tokens=512, clock=clock,
    ) as rig:  # fmt: skip
        wave = [rig.submit(bytes([65 + i]) * 128, max_tokens=64, ignore_eos=True) for i in range(8)]
        first: dict[int, float] = {}
        while len(first) < 8:
            for delta in rig.step():
                first.setdefault(delta.rid, clock())
        assert all(rig.answers[rid].tokens for rid in wave)
        return sorted(first.values())


def test_prompts_end_one_after_the_other_where_more_rows_cost_in_proportion() -> None:
    together, in_turn = first_tokens_of_a_wave(0), first_tokens_of_a_wave(64)
    assert together[0] == together[3] > 4 * 128 * 3e-3
    assert in_turn[0] < 128 * 3e-3 + 0.02
    assert in_turn[2] < together[0]
    assert sum(in_turn) < sum(together)


def test_prompts_that_are_short_go_together_up_to_what_fills_a_step() -> None:
    clock = SimClock(COST)
    with Rig(
        f"{NOISE},saturating=64", concurrency=8, context=2048, kv_tokens=16384, step_tokens=512,
        clock=clock,
    ) as rig:  # fmt: skip
        for i in range(8):
            rig.submit(bytes([65 + i]) * 30, max_tokens=2, ignore_eos=True)
        assert len({delta.rid for delta in rig.step()}) == 3
