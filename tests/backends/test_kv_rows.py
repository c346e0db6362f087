"""Cells and slots: which row a prefix is taken from, what is evicted, what is queued."""

from __future__ import annotations

import pytest
from kv_sequence import Seq, cache, compute, reserve

from hearth_backends.kv.cells import CellStore
from hearth_backends.kv.contract import KVOp, OpKind, Want
from hearth_backends.kv.slots import SlotStore

FORK, TRUNCATE = OpKind.FORK, OpKind.TRUNCATE


def test_an_idle_row_with_exactly_the_prefix_is_taken_over() -> None:
    store = CellStore(4, 200, 100)
    cache(store, Seq(1, range(40)))
    chat = Seq(2, [*range(40), 90, 91])
    assert store.match(chat) == 40
    step = reserve(store, (chat, 2))
    assert step.placements[0].row == 0
    assert step.ops == ()


def test_a_longer_idle_row_is_forked_while_rows_are_empty() -> None:
    store = CellStore(4, 200, 100)
    cache(store, Seq(1, range(40)))
    other = Seq(2, [*range(36), 90, 91])
    assert store.match(other) == 36, "a partly equal block is shared up to the difference"
    assert reserve(store, (other, 2)).ops == (KVOp(FORK, 0, 1, 36),)
    assert store.free_tokens() == 200 - 38


def test_the_longer_row_is_cut_where_it_is_the_last_one() -> None:
    store = CellStore(1, 200, 100)
    cache(store, Seq(1, range(40)))
    other = Seq(2, [*range(36), 90, 91])
    assert store.match(other) == 36
    assert reserve(store, (other, 2)).ops == (KVOp(TRUNCATE, 0, 0, 36),)


def test_its_own_end_is_given_up_before_another_chat() -> None:
    store = CellStore(2, 200, 100)
    cache(store, Seq(1, range(40)))
    cache(store, Seq(2, range(50, 80)))
    cache_hit = Seq(3, [*range(36), 90, 91])
    store.match(cache_hit)
    assert reserve(store, (cache_hit, 2)).ops == (KVOp(TRUNCATE, 0, 0, 36),)
    assert store.match(Seq(4, range(50, 81))) == 30, (
        "the other chat, used longest ago, is still there"
    )


def test_a_short_row_used_long_ago_goes_before_a_long_end() -> None:
    store = CellStore(2, 200, 100)
    cache(store, Seq(1, range(60)))
    cache(store, Seq(2, range(70, 90)))
    other = Seq(3, [*range(32), 90, 91])
    store.match(other)
    assert reserve(store, (other, 2)).ops == (KVOp(TRUNCATE, 1, 1, 0), KVOp(FORK, 0, 1, 32))
    assert store.match(Seq(4, range(61))) == 60


def test_a_running_row_is_forked_and_goes_on() -> None:
    store = CellStore(2, 200, 100)
    first = Seq(1, range(50))
    store.match(first)
    compute(store, first, 50)
    second = Seq(2, [*range(48), 77, 78])
    assert store.match(second) == 48
    first.tokens.append(5)
    step = reserve(store, (first, 1), (second, 2))
    assert step.ops == (KVOp(FORK, 0, 1, 48),)
    assert [placement.row for placement in step.placements] == [0, 1]
    assert store.free_tokens() == 200 - 51 - 2, "the shared cells cost once"


def test_at_least_one_token_is_left_to_compute() -> None:
    store = CellStore(2, 200, 100)
    cache(store, Seq(1, range(32)))
    assert store.match(Seq(2, range(32))) == 31


def test_a_limit_is_kept_and_a_second_match_replaces_the_first() -> None:
    store = CellStore(2, 200, 100)
    cache(store, Seq(1, range(64)))
    seq = Seq(2, range(64))
    assert store.match(seq) == 63
    assert store.match(seq, 40) == 40
    assert store.committed(seq) == 40
    assert store.match(seq, 0) == 0
    store.check()
    compute(store, seq, 1)
    with pytest.raises(ValueError, match="matched again"):
        store.match(seq)


@pytest.mark.parametrize("store", [CellStore(4, 400, 100), SlotStore(4, 100)])
def test_of_two_with_one_source_the_longer_stays_in_it(store: CellStore) -> None:
    cache(store, Seq(1, range(64)))
    longer, shorter = Seq(2, [*range(64), 1, 2]), Seq(3, [*range(32), 1, 2])
    assert store.match(longer) == 64
    assert store.match(shorter) == 32
    for seq in (Seq(8, [1]), Seq(9, [2])):
        compute(store, seq, 1)  # no row is empty any more but one
    step = reserve(store, (longer, 2), (shorter, 2))
    assert step.placements[0].row == 0
    assert step.ops == (KVOp(FORK, 0, step.placements[1].row, 32),)


def test_a_row_pinned_for_longer_is_not_taken_over_by_the_shorter() -> None:
    store = CellStore(2, 400, 100)
    cache(store, Seq(1, range(64)))
    longer, shorter = Seq(2, [*range(64), 1, 2]), Seq(3, [*range(32), 1, 2])
    store.match(longer)
    store.match(shorter)
    assert reserve(store, (shorter, 2)).ops == (KVOp(FORK, 0, 1, 32),)
    assert reserve(store, (longer, 2)).placements[0].row == 0


def test_the_shorter_waits_where_there_is_no_other_row() -> None:
    store = CellStore(2, 400, 100)
    cache(store, Seq(1, range(64)))
    longer, shorter = Seq(2, [*range(64), 1, 2]), Seq(3, [*range(32), 1, 2])
    compute(store, Seq(9, [5]), 1)
    store.match(longer)
    store.match(shorter)
    assert not store.can_admit()
    assert store.reserve([Want(shorter, 2)]) is None
    store.check()
    assert reserve(store, (longer, 2)).placements[0].row == 0


def test_eviction_cuts_the_end_of_the_row_least_used() -> None:
    store = CellStore(4, 100, 100)
    cache(store, Seq(1, range(48)))
    cache(store, Seq(2, range(500, 532)))
    third = Seq(3, range(900, 930))
    step = reserve(store, (third, 30))
    assert step.ops == (KVOp(TRUNCATE, 0, 0, 32),), "10 tokens were short: one block goes"
    assert store.match(Seq(4, range(48))) == 32
    assert store.match(Seq(5, range(500, 532))) == 31


def test_a_prefix_looked_for_is_the_last_to_go() -> None:
    store = CellStore(4, 100, 100)
    cache(store, Seq(1, range(48)))
    cache(store, Seq(2, range(500, 532)))
    visitor = Seq(3, range(48))
    store.match(visitor)
    store.release(visitor)
    step = reserve(store, (Seq(4, range(900, 930)), 30))
    assert step.ops == (KVOp(TRUNCATE, 1, 1, 16),)


def test_pinned_cells_are_neither_evicted_nor_counted_as_free() -> None:
    store = CellStore(3, 100, 100)
    cache(store, Seq(1, range(64)))
    seq = Seq(2, range(64))
    store.match(seq)
    assert store.free_tokens() == 100 - 63
    assert store.reserve([Want(Seq(3, range(900, 940)), 40)]) is None
    store.check()
    assert store.match(Seq(4, range(64))) == 63


def test_rollback_repeats_the_operations_and_cuts_what_may_have_been_written() -> None:
    store = CellStore(2, 200, 100)
    first = Seq(1, range(50))
    compute(store, first, 50)
    second = Seq(2, range(50))
    store.match(second)
    step = reserve(store, (first, 3), (second, 1))
    store.rollback(step)
    store.check()
    again = reserve(store, (second, 1))
    assert again.ops == (KVOp(FORK, 0, 1, 49), KVOp(TRUNCATE, 0, 0, 50), KVOp(TRUNCATE, 1, 1, 49))


def test_withdrawal_repeats_the_operations_only() -> None:
    store = CellStore(2, 200, 100)
    first = Seq(1, range(50))
    compute(store, first, 50)
    second = Seq(2, range(50))
    store.match(second)
    store.withdraw(reserve(store, (first, 3), (second, 1)))
    assert reserve(store, (second, 1)).ops == (KVOp(FORK, 0, 1, 49),)


def test_a_source_is_kept_until_its_fork_is_committed() -> None:
    store = CellStore(2, 100, 100)
    first, second = Seq(1, range(64)), Seq(2, range(64))
    compute(store, first, 64)
    store.match(second)
    step = reserve(store, (second, 1))
    store.release(first, keep_cached=False)
    store.check()
    assert not store.can_admit(), "the only other row is the source of a fork in flight"
    assert store.reserve([Want(Seq(3, [1]), 1)]) is None
    store.commit(step, {})
    assert reserve(store, (Seq(3, [1]), 1)).ops[0] == KVOp(TRUNCATE, 0, 0, 0)


def test_a_fork_that_was_never_made_does_not_hold_its_source() -> None:
    store = CellStore(2, 100, 100)
    first, second = Seq(1, range(64)), Seq(2, range(64))
    compute(store, first, 64)
    store.match(second)
    store.rollback(reserve(store, (second, 1)))
    store.release(second)
    store.release(first)
    assert store.free_tokens() == 100
    reserve(store, (Seq(3, range(900, 1000)), 100))


def test_going_back_before_a_prefix_that_others_use_leaves_it_to_them() -> None:
    store = CellStore(3, 200, 100)
    first, second = Seq(1, range(64)), Seq(2, range(64))
    compute(store, first, 64)
    store.match(second)
    store.truncate(first, 20)
    store.check()
    assert store.committed(first) == 20
    assert store.committed(second) == 63
    step = reserve(store, (first, 1), (second, 1))
    assert set(step.ops) == {KVOp(FORK, 0, 1, 20), KVOp(FORK, 0, 2, 63)}
    assert [placement.row for placement in step.placements] == [1, 2]


def test_tokens_nobody_knows_are_not_matched() -> None:
    store = CellStore(2, 200, 100)
    first = Seq(1, range(30))
    compute(store, first, 36)  # six rows of guesses, cancelled before anybody looked
    store.release(first)
    first.tokens += [7] * 10  # not what was written
    assert store.match(Seq(2, first.tokens)) == 30


def test_what_is_not_to_be_shared_is_neither_found_nor_looked_for() -> None:
    store = CellStore(3, 200, 100)
    cache(store, Seq(1, range(40), shares=False))
    assert store.match(Seq(2, range(40))) == 0
    cache(store, Seq(3, range(40)))
    assert store.match(Seq(4, range(40), shares=False)) == 0
    assert store.match(Seq(5, range(40), salt="other")) == 0


def test_released_without_cache_is_gone() -> None:
    store = CellStore(2, 200, 100)
    seq = Seq(1, range(40))
    compute(store, seq, 40)
    store.release(seq, keep_cached=False)
    assert store.match(Seq(2, range(40))) == 0
    store.release(seq)  # a second release is harmless


def test_more_than_the_context_or_the_cells_is_refused() -> None:
    store = CellStore(2, 150, 100)
    seq = Seq(1, range(120))
    assert store.reserve([Want(seq, 101)]) is None
    compute(store, seq, 100)
    assert store.reserve([Want(seq, 1)]) is None
    assert store.reserve([Want(Seq(2, range(60)), 51)]) is None
    store.check()


def test_steps_end_in_order() -> None:
    store = CellStore(2, 150, 100)
    a, b = Seq(1, range(20)), Seq(2, range(20))
    first, second = reserve(store, (a, 5)), reserve(store, (b, 5))
    with pytest.raises(ValueError, match="out of order"):
        store.commit(second, {})
    with pytest.raises(ValueError, match="out of order"):
        store.rollback(first)
    with pytest.raises(ValueError, match="in flight"):
        store.release(a)


def test_slots_count_what_running_rows_have_not_taken() -> None:
    store = SlotStore(3, 100)
    seq = Seq(1, range(40))
    compute(store, seq, 40)
    assert store.free_tokens() == 260
    other = Seq(2, [*range(40), 1])
    assert store.match(other) == 40
    assert store.free_tokens() == 220, "a copy costs its tokens"
