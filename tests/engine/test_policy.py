"""Who is next, who gives way, whose turn it is, and what is too late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hearth_backends.base import SamplingParams
from hearth_backends.kv.hashing import HashChain
from hearthd.engine import policy
from hearthd.engine.fairness import FairShare
from hearthd.engine.request import Limits, Priority, Request
from hearthd.engine.waiting import WaitingQueue


def request(
    order: int = 0, level: int = 0, key: str = "", weight: float = 1.0, n_prompt: int = 10,
    deadline: float | None = None,
) -> Request:  # fmt: skip
    made = Request(
        id=order,
        tokens=[1] * n_prompt,
        n_prompt=n_prompt,
        params=SamplingParams(),
        limits=Limits(8),
        chain=HashChain("m"),
        priority=Priority(level=level, key=key, weight=weight, deadline_seconds=deadline),
    )
    made.order = order
    return made


def test_batch_gives_way_and_the_latest_of_it_first() -> None:
    running = [request(1, -1), request(2, -1), request(3, 0), request(4, 1)]
    assert policy.gives_way(request(9, 1), running) is running[1]
    assert policy.gives_way(request(9, 0), running) is running[1]
    assert policy.gives_way(request(9, -1), running) is None
    assert policy.gives_way(request(9, 1), running[2:]) is None


def test_one_that_was_given_a_turn_keeps_its_seat_and_comes_first() -> None:
    promoted, urgent = request(5, -1), request(1, 1)
    promoted.level = 1
    assert policy.gives_way(urgent, [promoted]) is None
    assert policy.waiting_rank(promoted, 1e9) < policy.waiting_rank(urgent, 0.0)


def test_a_turn_for_the_oldest_of_a_class_and_one_at_a_time() -> None:
    top, old = request(1, 1), request(2, -1)
    oldest = {1: top, -1: old}
    assert policy.due_a_turn(oldest, {}, 30.0, 29.9) == []
    assert policy.due_a_turn(oldest, {}, 30.0, 30.0) == [old]
    assert policy.due_a_turn(oldest, {-1: 20.0}, 30.0, 49.0) == []
    assert policy.due_a_turn(oldest, {-1: 20.0}, 30.0, 50.0) == [old]
    assert policy.due_a_turn({-1: old}, {}, 30.0, 1000.0) == []


def test_prompts_by_level_then_the_short_and_the_old_in_turns() -> None:
    long, short, urgent = request(1, n_prompt=100), request(2, n_prompt=5), request(3, 1, n_prompt=50)  # fmt: skip
    prompts = [long, short, urgent]
    assert policy.prompt_order(prompts, shortest_first=True) == [urgent, short, long]
    assert policy.prompt_order(prompts, shortest_first=False) == [urgent, long, short]
    long.n_computed = 97
    assert policy.prompt_order(prompts, shortest_first=True) == [urgent, long, short]


def test_deadlines() -> None:
    late = request(n_prompt=100, deadline=10.0)
    assert not policy.has_expired(late, 9.9)
    assert policy.has_expired(late, 10.0)
    assert not policy.has_expired(request(), 1e9)
    assert not policy.is_hopeless(late, None, 9.9)
    assert not policy.is_hopeless(late, 0.1, 2.9)
    assert policy.is_hopeless(late, 0.1, 3.1)
    late.n_computed = 90
    assert not policy.is_hopeless(late, 0.1, 3.1)
    late.tokens.append(1)
    assert not policy.is_hopeless(late, 0.1, 9.9)


# --- shares --------------------------------------------------------------------------------------


def test_whose_key_was_served_less_comes_first() -> None:
    shares = FairShare()
    queue = WaitingQueue(lambda r: policy.waiting_rank(r, shares.served(r)))
    heavy, light, other = request(1, key="a", weight=2.0), request(2, key="b"), request(3, key="c")
    for each in (heavy, light, other):
        shares.join(each)
        queue.add(each)
    shares.charge(heavy, 100)
    shares.charge(light, 60)
    shares.charge(other, 60)
    assert queue.first() is heavy
    shares.charge(heavy, 30)
    assert queue.first() is light
    queue.remove(light)
    assert queue.first() is other


def test_accounts_are_forgotten_when_they_say_nothing_any_more() -> None:
    shares = FairShare()
    for i in range(100):
        one, other = request(2 * i, key=f"k{i}"), request(2 * i + 1, key="always")
        shares.join(one)
        shares.join(other)
        assert shares.contended
        shares.charge(one, 10)
        shares.charge(other, 10)
        shares.leave(one)
        shares.leave(other)
        assert not shares.contended
    assert len(shares._accounts) <= 2


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([-1, 0, 1]), st.sampled_from("ab")), max_size=60
    )
)
def test_the_queue_counts_and_orders(steps: list[tuple[bool, int, str]]) -> None:
    queue = WaitingQueue(lambda r: policy.waiting_rank(r, 0.0))
    here: list[Request] = []
    for i, (comes, level, key) in enumerate(steps):
        if comes or not here:
            here.append(request(i, level, key))
            queue.add(here[-1])
        else:
            gone = here.pop(i % len(here))
            queue.remove(gone)
        first = min(here, key=policy.rank, default=None)
        assert queue.first() is first
        assert len(queue) == len(list(queue)) == len(here)
        assert bool(queue) == bool(here)
    assert set(queue.oldest_by_level()) == {r.level for r in here}
