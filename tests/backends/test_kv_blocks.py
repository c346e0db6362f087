"""Paged blocks: sharing by reference, the free list as cache, tables in placements."""

from __future__ import annotations

from kv_sequence import Seq, cache, compute, reserve

from hearth_backends.kv.blocks import PagedStore
from hearth_backends.kv.contract import Want


def test_full_blocks_are_shared_by_reference_and_need_no_operation() -> None:
    store = PagedStore(4, 11, 100)
    first = Seq(1, range(40))
    table = compute(store, first, 40).placements[0].blocks
    second = Seq(2, range(40))
    assert store.match(second) == 32
    step = reserve(store, (second, 8))
    assert step.ops == ()
    assert step.placements[0].blocks[:2] == table[:2]
    assert step.placements[0].blocks[2] != table[2], "a block that is not full is not shared"
    assert store.free_tokens() == (10 - 4) * 16


def test_a_whole_prompt_in_the_cache_leaves_its_last_block_to_compute() -> None:
    store = PagedStore(4, 11, 100)
    cache(store, Seq(1, range(32)))
    assert store.match(Seq(2, range(32))) == 16
    assert store.match(Seq(3, range(33)), 31) == 16


def test_released_blocks_are_found_until_they_are_used_again_end_first() -> None:
    store = PagedStore(4, 7, 96)
    cache(store, Seq(1, range(96)))
    assert store.free_tokens() == 96
    compute(store, Seq(2, range(900, 932)), 32)
    assert store.match(Seq(3, range(96))) == 64


def test_the_null_block_is_never_handed_out() -> None:
    store = PagedStore(2, 5, 100)
    assert store.free_tokens() == 64
    step = reserve(store, (Seq(1, range(64)), 64))
    assert sorted(step.placements[0].blocks) == [1, 2, 3, 4]
    assert store.reserve([Want(Seq(2, [1]), 1)]) is None


def test_a_rollback_gives_new_blocks_back() -> None:
    store = PagedStore(2, 5, 100)
    seq = Seq(1, range(64))
    compute(store, seq, 10)
    store.rollback(reserve(store, (seq, 40)))
    store.check()
    assert store.free_tokens() == 48
    assert len(reserve(store, (seq, 6)).placements[0].blocks) == 1


def test_rejected_drafts_give_their_blocks_back() -> None:
    store = PagedStore(2, 5, 100)
    seq = Seq(1, range(20))
    compute(store, seq, 15)
    step = reserve(store, (seq, 4))
    store.commit(step, {1: 1})
    store.check()
    assert store.committed(seq) == 16
    assert store.free_tokens() == 48


def test_a_shared_block_is_never_written_again() -> None:
    store = PagedStore(3, 11, 100)
    first, second = Seq(1, range(40)), Seq(2, range(40))
    old = compute(store, first, 40).placements[0].blocks
    store.match(second)
    store.truncate(first, 20)
    assert store.committed(first) == 16, "the block that the other reads is given up whole"
    assert reserve(store, (first, 1)).placements[0].blocks[1] != old[1]


def test_a_block_to_be_written_again_is_not_found() -> None:
    store = PagedStore(3, 11, 100)
    first = Seq(1, range(40))
    compute(store, first, 40)
    store.truncate(first, 20)
    assert store.committed(first) == 20
    assert store.match(Seq(2, range(40))) == 16


def test_rows_are_the_lowest_free_and_can_run_out() -> None:
    store = PagedStore(2, 11, 100)
    a, b, c = Seq(1, [1]), Seq(2, [2]), Seq(3, [3])
    assert compute(store, a, 1).placements[0].row == 0
    assert store.can_admit()
    store.match(b)
    assert not store.can_admit()
    assert compute(store, b, 1).placements[0].row == 1
    assert store.reserve([Want(c, 1)]) is None
    store.release(a)
    assert compute(store, c, 1).placements[0].row == 0
