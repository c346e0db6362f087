"""Leases: never more than the budget, refusals with their arithmetic, one pool for all processors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthd.errors import InsufficientMemory
from hearthd.placement.ledger import Ledger, MemoryLease, Need, format_bytes

GIB = 1024**3


def need(n_bytes: int, device: str = "cpu:0") -> Need:
    return Need(n_bytes, 0, 0, device)


def test_what_fits_is_granted_and_comes_back() -> None:
    ledger = Ledger({"cpu": 10})
    lease = ledger.grant("a", need(7))
    assert ledger.free_bytes("cpu:0") == 3
    ledger.release(lease)
    ledger.release(lease)
    assert ledger.free_bytes("cpu:0") == 10


def test_a_refusal_has_the_arithmetic() -> None:
    ledger = Ledger({"cpu": 8 * GIB})
    ledger.grant("big", need(7 * GIB + 600 * 1024**2))
    with pytest.raises(InsufficientMemory) as refused:
        ledger.grant("canary", Need(GIB, 200 * 1024**2, 5, "cpu:0"))
    assert refused.value.message == (
        "canary needs 1.2 GiB on cpu:0 (weights 1.0 GiB + kv 200.0 MiB + workspace 5 B), "
        "424.0 MiB of 8.0 GiB are free; leases: big 7.6 GiB"
    )


def test_processors_share_their_memory() -> None:
    ledger = Ledger({"cpu": 10})
    ledger.grant("a", need(6, "cpu:0"))
    assert not ledger.can_grant("b", need(6, "cpu:1")).ok


def test_a_device_without_a_budget_is_refused_in_words() -> None:
    verdict = Ledger({"cpu": 10}).can_grant("a", need(1, "gpu:0"))
    assert not verdict.ok
    assert "memory.devices" in verdict.message
    assert Ledger({"cpu": 10}).free_bytes("gpu:0") is None


def test_devices_do_not_draw_on_each_other() -> None:
    ledger = Ledger({"cpu": 10, "gpu:0": 5})
    ledger.grant("a", need(10))
    assert ledger.can_grant("a", need(5, "gpu:0")).ok


def test_what_equal_shares_on_several_devices_may_take() -> None:
    ledger = Ledger({"cpu": 10, "gpu:0": 5, "gpu:1": 9})
    assert ledger.free_on_all(["gpu:1"]) == 9
    assert ledger.free_on_all(["gpu:0", "gpu:1"]) == 10  # the smaller one, twice
    assert ledger.free_on_all(["cpu:0", "cpu:1"]) == 10  # one memory
    ledger.grant("a", need(3, "gpu:0"))
    assert ledger.free_on_all(["gpu:0", "gpu:1"]) == 4
    assert ledger.free_on_all(["gpu:0", "gpu:2"]) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60)), max_size=40))
def test_the_sum_of_leases_never_exceeds_the_budget(actions: list[tuple[bool, int]]) -> None:
    ledger = Ledger({"cpu": 100})
    leases: list[MemoryLease] = []
    for gives_back, n_bytes in actions:
        if gives_back and leases:
            ledger.release(leases.pop(n_bytes % len(leases)))
            continue
        free = ledger.free_bytes("cpu:0")
        assert free is not None
        assert ledger.can_grant("x", need(n_bytes)).ok == (n_bytes <= free)
        if n_bytes <= free:
            leases.append(ledger.grant("x", need(n_bytes)))
        else:
            with pytest.raises(InsufficientMemory):
                ledger.grant("x", need(n_bytes))
        assert sum(lease.need.total_bytes for lease in ledger.leases) <= 100


def test_sizes_for_people() -> None:
    assert format_bytes(0) == "0 B"
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(3 * 1024**5) == "3072.0 TiB"
