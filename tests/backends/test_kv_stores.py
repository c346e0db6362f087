"""Every store against memories that do what it says: contents, room, and nothing lost at the end."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kv_driver import ACTIONS, Driver, run
from kv_memory import BlockMemory, HybridMemory, RowMemory, SlotMemory, StateMemory

from hearth_backends.kv.blocks import PagedStore
from hearth_backends.kv.cells import CellStore
from hearth_backends.kv.joint import JointStore
from hearth_backends.kv.slots import SlotStore
from hearth_backends.kv.states import StateStore

N_CTX = 110


def cells() -> Driver:
    return Driver(CellStore(3, 130, N_CTX), [RowMemory(130)], n_ctx=N_CTX, capacity=130, exact=True)


def cells_spare_rows() -> Driver:
    return Driver(CellStore(8, 200, N_CTX), [RowMemory(200)], n_ctx=N_CTX, capacity=200, exact=True)


def one_row() -> Driver:
    return Driver(
        CellStore(1, N_CTX, N_CTX), [RowMemory(N_CTX)], n_ctx=N_CTX, capacity=N_CTX, exact=True
    )


def slots() -> Driver:
    return Driver(
        SlotStore(4, N_CTX), [SlotMemory(N_CTX)], n_ctx=N_CTX, capacity=4 * N_CTX, exact=True
    )


def blocks() -> Driver:
    return Driver(
        PagedStore(5, 13, N_CTX), [BlockMemory()], n_ctx=N_CTX, capacity=12 * 16, exact=False
    )


def states() -> Driver:
    return Driver(
        StateStore(3, N_CTX, 4), [StateMemory()], n_ctx=N_CTX, capacity=3 * N_CTX, exact=False
    )


def hybrid_states() -> Driver:
    return Driver(
        StateStore(4, N_CTX, 6, n_tokens=170, n_state_tokens=140),
        [HybridMemory(170, 140)],
        n_ctx=N_CTX,
        capacity=170,
        exact=False,
    )


def cells_and_slots() -> Driver:
    return Driver(
        JointStore([CellStore(5, 150, N_CTX), SlotStore(3, N_CTX)]),
        [RowMemory(150), SlotMemory(N_CTX)],
        n_ctx=N_CTX,
        capacity=150,
        exact=True,
    )


def blocks_and_cells() -> Driver:
    return Driver(
        JointStore([PagedStore(4, 11, N_CTX), CellStore(3, 150, N_CTX)]),
        [BlockMemory(), RowMemory(150)],
        n_ctx=N_CTX,
        capacity=150,
        exact=False,
    )


def states_and_cells() -> Driver:
    return Driver(
        JointStore([StateStore(3, N_CTX, 5), CellStore(4, 160, N_CTX)]),
        [StateMemory(), RowMemory(160)],
        n_ctx=N_CTX,
        capacity=160,
        exact=False,
    )


KINDS = [
    cells,
    cells_spare_rows,
    one_row,
    slots,
    blocks,
    states,
    hybrid_states,
    cells_and_slots,
    blocks_and_cells,
    states_and_cells,
]

scripts = st.lists(
    st.tuples(st.integers(0, len(ACTIONS) - 1), st.integers(0, 1 << 12), st.integers(0, 1 << 12)),
    max_size=60,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(script=scripts)
def test_store_keeps_its_word_whatever_happens(
    kind: Callable[[], Driver], script: list[tuple[int, int, int]]
) -> None:
    run(kind(), script)


@pytest.mark.parametrize("kind", KINDS)
def test_store_keeps_its_word_for_long(kind: Callable[[], Driver]) -> None:
    rng = random.Random(7)
    n_matched = 0
    for _ in range(10):
        script = [
            (rng.randrange(len(ACTIONS)), rng.randrange(1 << 12), rng.randrange(1 << 12))
            for _ in range(400)
        ]
        n_matched += run(kind(), script).n_matched
    assert n_matched > 0, "no prefix was ever found: the test proves nothing about sharing"
