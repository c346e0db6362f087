"""Budgets of the ledger follow the devices."""

from __future__ import annotations

import msgspec
import pytest

from hearthd.errors import InsufficientMemory
from hearthd.hardware.device import Device, Reading
from hearthd.hardware.inventory import DeviceEvent
from hearthd.placement.budgets import DeviceBudgets
from hearthd.placement.ledger import Ledger, Need

GIB = 1 << 30
CARD = Device(
    name="cuda:0", identity="nvidia:GPU-1", kind="gpu", vendor="nvidia", description="Card",
    reading=Reading(free_bytes=20 * GIB),
)  # fmt: skip


@pytest.fixture
def ledger() -> Ledger:
    return Ledger({"cpu": 10 * GIB, "cuda:1": GIB})


def need(device: str, n_bytes: int) -> Need:
    return Need(n_bytes, 0, 0, device)


def test_a_card_that_is_found_has_what_is_free_less_a_reserve(ledger: Ledger) -> None:
    budgets = DeviceBudgets(ledger, {})
    budgets.on_event(DeviceEvent("appeared", CARD))
    assert ledger.budget_bytes("cuda:0") == 18 * GIB
    ledger.grant("m", need("cuda:0", 9 * GIB))
    fuller = msgspec.structs.replace(CARD, reading=Reading(free_bytes=GIB))
    budgets.on_event(DeviceEvent("changed", fuller))
    assert ledger.free_bytes("cuda:0") == 9 * GIB  # what models took themselves is no loss


def test_the_configuration_counts_first(ledger: Ledger) -> None:
    budgets = DeviceBudgets(ledger, {"cuda:1": GIB})
    budgets.take_in([msgspec.structs.replace(CARD, name="cuda:1")])
    assert ledger.budget_bytes("cuda:1") == GIB


def test_unified_memory_is_the_hosts(ledger: Ledger) -> None:
    budgets = DeviceBudgets(ledger, {})
    budgets.take_in([msgspec.structs.replace(CARD, unified=True)])
    ledger.grant("m", need("cuda:0", 4 * GIB))
    assert ledger.free_bytes("cpu:0") == 6 * GIB
    with pytest.raises(InsufficientMemory):
        ledger.grant("n", need("cpu:0", 7 * GIB))


def test_nothing_is_put_on_a_device_that_is_not_ready(ledger: Ledger) -> None:
    budgets = DeviceBudgets(ledger, {})
    budgets.take_in([CARD])
    gone = msgspec.structs.replace(CARD, state="gone", problem="it is not there any more")
    budgets.on_event(DeviceEvent("gone", gone))
    with pytest.raises(InsufficientMemory, match=r"cuda:0 \(Card\) is gone: it is not there"):
        ledger.grant("m", need("cuda:0", 1))
    budgets.on_event(DeviceEvent("appeared", CARD))
    ledger.grant("m", need("cuda:0", 1))
