"""The joint store of a pipeline: the least of its stores, all of them or none."""

from __future__ import annotations

import pytest
from kv_sequence import Seq, cache, compute, reserve

from hearth_backends.kv.blocks import PagedStore
from hearth_backends.kv.cells import CellStore
from hearth_backends.kv.contract import KVOp, OpKind, Want
from hearth_backends.kv.joint import JointStore
from hearth_backends.kv.states import StateStore


def test_match_is_what_all_can_give() -> None:
    store = JointStore([CellStore(2, 200, 100), PagedStore(2, 12, 100)])
    cache(store, Seq(1, range(40)))
    seq = Seq(2, [*range(40), 1])
    assert store.match(seq) == 32
    assert [part.committed(seq) for part in store.stores] == [32, 32]


def test_match_with_saved_states_is_one_of_them() -> None:
    store = JointStore([CellStore(3, 200, 100), StateStore(3, 100, 4)])
    first, second = Seq(1, range(60)), Seq(2, range(60))
    compute(store, first, 16)
    compute(store, first, 40)
    assert store.match(second) == 16
    parts = reserve(store, (second, 4)).parts
    assert parts[0].ops == (KVOp(OpKind.FORK, 0, 1, 16),)
    assert parts[1].ops == (KVOp(OpKind.LOAD, 0, 1, 16),)


def test_what_one_store_refuses_none_has_granted() -> None:
    store = JointStore([StateStore(2, 100, 4), CellStore(2, 60, 100)])
    seq, other = Seq(1, range(60)), Seq(2, range(60, 90))
    compute(store, seq, 40)
    assert store.reserve([Want(seq, 10), Want(other, 20)]) is None
    store.check()
    assert store.committed(seq) == 40, "no state was lost by asking"
    compute(store, seq, 20)


def test_a_failed_step_leaves_all_with_what_the_least_has() -> None:
    store = JointStore([CellStore(2, 200, 100), StateStore(2, 100, 4)])
    seq = Seq(1, range(60))
    compute(store, seq, 32)
    compute(store, seq, 10)
    store.rollback(reserve(store, (seq, 3)))
    store.check()
    assert store.committed(seq) == 32
    assert [part.committed(seq) for part in store.stores] == [32, 32]
    assert KVOp(OpKind.TRUNCATE, 0, 0, 32) in reserve(store, (seq, 3)).parts[0].ops


def test_room_is_what_every_store_has() -> None:
    store = JointStore([CellStore(1, 200, 100), PagedStore(2, 6, 100)])
    assert store.free_tokens() == 80
    store.match(Seq(1, [1]))
    assert not store.can_admit()


def test_no_stores_are_no_store() -> None:
    with pytest.raises(ValueError, match="at least one"):
        JointStore([])
