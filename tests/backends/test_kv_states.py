"""Saved states: whole ones only, counted once committed, and what a failed step costs."""

from __future__ import annotations

from kv_sequence import Seq, compute, reserve

from hearth_backends.kv.contract import KVOp, OpKind, Want
from hearth_backends.kv.states import StateStore

SAVE, LOAD, DROP, TRUNCATE = OpKind.SAVE, OpKind.LOAD, OpKind.DROP, OpKind.TRUNCATE


def test_a_state_is_saved_where_a_step_ends_with_a_block() -> None:
    store = StateStore(2, 100, 4)
    seq = Seq(1, range(60))
    compute(store, seq, 30)
    assert compute(store, seq, 2).ops == ()
    assert compute(store, seq, 20).ops == (KVOp(SAVE, 0, 0, 32),)
    assert store.match(Seq(2, range(60))) == 32
    assert store.match(Seq(3, range(32))) == 0, "a state is used whole or not at all"


def test_a_state_counts_once_its_save_is_committed() -> None:
    store = StateStore(3, 100, 4)
    seq = Seq(1, range(60))
    compute(store, seq, 32)
    assert store.match(Seq(2, range(60))) == 0
    step = reserve(store, (seq, 1))
    assert store.match(Seq(3, range(60))) == 0
    store.commit(step, {})
    assert store.match(Seq(4, range(60))) == 32


def test_a_matched_sequence_loads_its_state_first() -> None:
    store = StateStore(3, 100, 4)
    seq, other = Seq(1, range(60)), Seq(2, range(60))
    compute(store, seq, 32)
    compute(store, seq, 1)
    assert store.match(other) == 32
    assert reserve(store, (other, 8)).ops == (KVOp(LOAD, 0, 1, 32),)


def test_a_failed_step_goes_back_to_the_last_saved_state_and_forgets_its_saves() -> None:
    store = StateStore(2, 100, 4)
    seq = Seq(1, range(70))
    compute(store, seq, 32)
    compute(store, seq, 32)
    step = reserve(store, (seq, 5))
    assert step.ops == (KVOp(SAVE, 0, 1, 64),)
    store.rollback(step)
    store.check()
    assert store.committed(seq) == 32
    assert reserve(store, (seq, 5)).ops == (KVOp(DROP, 1, 1, 64), KVOp(LOAD, 0, 0, 32))


def test_a_failed_step_without_a_state_starts_over() -> None:
    store = StateStore(2, 100, 4)
    seq = Seq(1, range(70))
    compute(store, seq, 10)
    store.rollback(reserve(store, (seq, 5)))
    assert store.committed(seq) == 0
    assert reserve(store, (seq, 5)).ops == (KVOp(TRUNCATE, 0, 0, 0),)


def test_a_withdrawn_step_costs_nothing() -> None:
    store = StateStore(2, 100, 4)
    seq = Seq(1, range(70))
    compute(store, seq, 32)
    store.withdraw(reserve(store, (seq, 5)))
    store.check()
    assert store.committed(seq) == 32
    assert reserve(store, (seq, 5)).ops == (KVOp(SAVE, 0, 0, 32),)


def test_the_state_least_used_gives_way_but_never_one_that_is_waited_for() -> None:
    store = StateStore(3, 100, 1)
    seq, other = Seq(1, range(80)), Seq(2, range(80))
    compute(store, seq, 16)
    compute(store, seq, 8)
    assert store.match(other) == 16
    compute(store, seq, 8)
    assert store.match(other) == 16, "the only state was kept for it"
    store.release(other)
    compute(store, seq, 16)
    assert compute(store, seq, 1).ops == (KVOp(DROP, 0, 0, 16), KVOp(SAVE, 0, 0, 48))


def test_outputs_are_saved_now_and_then() -> None:
    store = StateStore(1, 300, 9)
    seq = Seq(1, range(17))
    compute(store, seq, 16)
    saved = []
    for _ in range(200):
        saved += [op.n_tokens for op in compute(store, seq, 1).ops]
        seq.tokens.append(5)
    assert saved == [16, 80, 144, 208]


def test_going_back_and_leaving() -> None:
    store = StateStore(1, 100, 4)
    seq = Seq(1, range(70))
    compute(store, seq, 32)
    compute(store, seq, 20)
    store.truncate(seq, 40)
    assert store.committed(seq) == 32
    store.release(seq, keep_cached=False)
    store.check()
    assert store.free_tokens() == 100
    assert store.match(Seq(2, range(70))) == 32, "a state that a load still needs stays"


# --- states that hold keys and values too ----------------------------------------------------------


def test_rows_share_room_that_is_not_enough_for_all() -> None:
    store = StateStore(3, 100, 4, n_tokens=120)
    seqs = [Seq(i, range(100)) for i in (1, 2, 3)]
    compute(store, seqs[0], 60)
    compute(store, seqs[1], 60)
    assert store.free_tokens() == 0
    assert store.reserve([Want(seqs[2], 1)]) is None
    assert store.reserve([Want(seqs[0], 1)]) is None
    store.release(seqs[1])
    assert store.reserve([Want(seqs[2], 61)]) is None
    compute(store, seqs[2], 60)
    store.check()


def test_a_state_that_is_loaded_takes_room_for_its_tokens() -> None:
    store = StateStore(2, 100, 4, n_tokens=100)
    seq, other = Seq(1, range(100)), Seq(2, range(100))
    compute(store, seq, 64)
    compute(store, seq, 1)
    assert store.match(other) == 64
    assert store.reserve([Want(other, 1)]) is None
    store.release(seq)
    assert store.free_tokens() == 36
    assert LOAD in {op.kind for op in reserve(store, (other, 36)).ops}
    store.check()


def test_states_are_dropped_until_there_are_copies_of_no_more_tokens_than_allowed() -> None:
    store = StateStore(2, 200, 8, n_state_tokens=100)
    seq = Seq(1, range(200))
    for n in (32, 32, 32):
        compute(store, seq, n)
    assert compute(store, seq, 1).ops == (
        KVOp(DROP, 0, 0, 32),
        KVOp(DROP, 1, 1, 64),
        KVOp(SAVE, 0, 1, 96),
    )
    assert store.match(Seq(2, range(100))) == 96
    compute(store, seq, 31)
    assert compute(store, seq, 1).ops == (), "a state of 128 tokens is never kept"
    store.check()


def test_it_is_told_where_a_sequence_parts_from_those_before() -> None:
    store = StateStore(3, 200, 8)
    first, second = Seq(1, range(90)), Seq(2, [*range(70), *[5] * 30])
    assert store.match(first) == 0
    assert store.parting(first, 0) is None
    compute(store, first, 80)
    store.release(first)
    assert store.match(second) == 0, "only a state of all 80 tokens was saved"
    assert store.parting(second, 0) == 64
    assert store.parting(second, 64) is None
    compute(store, second, 64)
    compute(store, second, 10)
    third = Seq(3, [*range(70), *[6] * 30])
    assert store.match(third) == 64
    store.release(second)
    assert store.match(second) == 64
    assert store.parting(second, 64) is None


def test_what_is_not_to_be_shared_parts_nowhere() -> None:
    store = StateStore(3, 200, 8)
    store.match(Seq(1, range(90)))
    for seq in (Seq(2, range(90), shares=False), Seq(3, range(90), salt="s")):
        assert store.match(seq) == 0
        assert store.parting(seq, 0) is None
