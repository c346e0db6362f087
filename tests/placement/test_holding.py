"""Leases of engines that load, unload and crash in any order, next to others who take memory: never more than there is."""

from __future__ import annotations

import contextlib
import random

import pytest

from hearthd.errors import InsufficientMemory
from hearthd.hardware.memory import HostMemory
from hearthd.placement.holding import Holding
from hearthd.placement.ledger import Ledger, MemoryLease, Need
from hearthd.placement.outside import Resident, outside_of_device, outside_of_host

N_SEQUENCES = 10_000
DEVICES = ("cpu:0", "cpu:1", "cuda:0", "igpu:0")
BUDGETS = {"cpu": 1000, "cpu:1": 400, "cuda:0": 700}
GIB = 1 << 30


def box() -> Ledger:
    ledger = Ledger(BUDGETS)
    ledger.join("igpu:0", "cpu")
    return ledger


def need(chance: random.Random, device: str) -> Need:
    return Need(chance.randrange(300), chance.randrange(200), chance.randrange(50), device)


def begin(ledger: Ledger, chance: random.Random, name: str) -> Holding | None:
    """A plan for one device or two; None where it is refused, with nothing left behind."""
    planned: list[MemoryLease] = []
    try:
        for device in chance.sample(DEVICES, chance.choice((1, 2))):
            planned.append(ledger.grant(name, need(chance, device)))  # noqa: PERF401  # the next may be refused
    except InsufficientMemory:
        for lease in planned:
            ledger.release(lease)
        return None
    return Holding(ledger, name, planned)


def check(ledger: Ledger) -> None:
    """No budget is exceeded by what was granted."""
    total = {device: sum(ledger.held(device).values()) for device in DEVICES}
    assert total["cpu:0"] + total["cpu:1"] + total["igpu:0"] <= 1000
    assert total["cpu:1"] <= 400
    assert total["cuda:0"] <= 700
    assert all((ledger.free_bytes(device) or 0) >= 0 for device in DEVICES)


def play(seed: int) -> None:
    """A dozen things that happen to a box; at the end nobody has anything."""
    chance, ledger = random.Random(seed), box()
    alive: list[Holding] = []
    for step in range(12):
        what = chance.randrange(5)
        if what <= 1:
            holding = begin(ledger, chance, f"m{step}")
            alive += [] if holding is None else [holding]
        elif what == 2 and alive:  # an engine asks for what it really needs
            with contextlib.suppress(InsufficientMemory):
                chance.choice(alive).ask(need(chance, chance.choice(DEVICES)))
        elif what == 3 and alive:  # it ends, or crashes: also twice
            gone = alive.pop(chance.randrange(len(alive)))
            gone.give_back()
            gone.give_back()
        else:
            ledger.set_outside(chance.choice(DEVICES), chance.randrange(600))
        check(ledger)
    for holding in alive:
        holding.give_back()
    assert ledger.leases == ()


def test_no_sequence_of_loads_and_crashes_exceeds_a_budget() -> None:
    for seed in range(N_SEQUENCES):
        play(seed)


def test_what_others_have_is_not_granted_and_is_said() -> None:
    ledger = box()
    ledger.set_outside("cpu:0", 800)
    assert ledger.free_bytes("igpu:0") == 200
    with pytest.raises(InsufficientMemory, match="others than Hearth have taken 800 B"):
        ledger.grant("m", Need(201, 0, 0, "cpu:0"))
    ledger.set_outside("cpu:0", 0)
    assert ledger.grant("m", Need(201, 0, 0, "cpu:0")).need.device == "cpu:0"


def test_engines_are_not_others() -> None:
    budget = 9 * GIB  # of 10 that were free, a tenth is left to others
    loaded = HostMemory(available_bytes=6 * GIB, cgroup_free_bytes=None)
    assert outside_of_host(budget, loaded, Resident(4 * GIB, 5 * GIB), None) == 0
    assert outside_of_host(budget, loaded, Resident(0, 0), None) == pytest.approx(
        3.6 * GIB, rel=1e-6
    )
    limited = HostMemory(available_bytes=100 * GIB, cgroup_free_bytes=5 * GIB)
    assert outside_of_host(budget, limited, Resident(4 * GIB, 5 * GIB), None) == 0
    assert outside_of_device(18 * GIB, 10 * GIB, 10 * GIB) == 0
    assert outside_of_device(18 * GIB, 5 * GIB, 10 * GIB) == pytest.approx(4.5 * GIB, rel=1e-6)
