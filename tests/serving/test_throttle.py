"""Heat, power and quiet hours: how the share of seats follows them, and that models are told."""

from __future__ import annotations

import asyncio
from datetime import datetime

import msgspec
import pytest
from fake_serving import FakeServing, model_status
from serving_rig import Start

from hearthd import wire
from hearthd.config import ModelConfig
from hearthd.config.schema import PowerConfig
from hearthd.hardware.device import Device, Reading
from hearthd.serving.governor import Governor
from hearthd.serving.throttle import LEAST_SHARE, Strain, Throttle, is_quiet, next_throttle

HOT = PowerConfig(celsius=80.0)
CAPPED = PowerConfig(watts=300.0)


def follow(limits: PowerConfig, readings: list[tuple[float, Strain]]) -> list[float]:
    """The share after each of (time, strain)."""
    throttle, shares = Throttle(), []
    for now, strain in readings:
        throttle = next_throttle(throttle, strain, limits, now)
        shares.append(throttle.share)
    return shares


def test_it_halves_while_it_is_too_hot_but_not_at_once_again() -> None:
    hot = Strain(hottest_celsius=85.0)
    assert follow(HOT, [(0, hot), (9, hot), (10, hot), (21, hot)]) == [0.5, 0.5, 0.25, 0.125]


def test_between_the_limit_and_well_below_it_nothing_changes() -> None:
    readings = [(0.0, Strain(85.0)), *((10.0 + t, Strain(77.0)) for t in range(0, 300, 5))]
    assert set(follow(HOT, readings)) == {0.5}


def test_it_doubles_only_after_it_was_cool_for_a_while() -> None:
    cool = Strain(60.0)
    shares = follow(
        HOT,
        [(0, Strain(85.0)), (10, Strain(85.0)), (20, cool), (49, cool), (50, cool), (79, cool), (80, cool)],
    )  # fmt: skip
    assert shares == [0.5, 0.25, 0.25, 0.25, 0.5, 0.5, 1.0]


def test_a_warm_moment_starts_the_wait_anew() -> None:
    readings = [(0, Strain(85.0)), (20, Strain(60.0)), (45, Strain(78.0)), (50, Strain(60.0))]
    assert follow(HOT, [*readings, (79, Strain(60.0)), (80, Strain(60.0))])[-2:] == [0.5, 1.0]


def test_it_hardly_swings_around_a_limit_that_its_own_work_reaches() -> None:
    throttle, changes, celsius = Throttle(), 0, 60.0
    for second in range(3600):
        wanted = 62.0 + 24.0 * throttle.share  # what the device would come to at that load
        celsius += (wanted - celsius) / 20
        after = next_throttle(throttle, Strain(celsius), HOT, float(second))
        changes += after.share != throttle.share
        throttle = after
    assert changes <= 16  # 89, were it to try again after 30 s each time


def test_the_least_is_not_nothing() -> None:
    hot = Strain(hottest_celsius=95.0)
    assert follow(HOT, [(10.0 * i, hot) for i in range(20)])[-1] == LEAST_SHARE
    assert wire.Hold(LEAST_SHARE).of(16) == 1


def test_watts_count_for_the_box_and_the_unknown_does_not() -> None:
    assert follow(CAPPED, [(0, Strain(95.0, 301.0))]) == [0.5]
    assert follow(CAPPED, [(0, Strain(95.0, None))]) == [1.0]
    assert next_throttle(Throttle(), Strain(None, 420.0), CAPPED, 0).reason == "420 W of 300 W"


@pytest.mark.parametrize(
    ("minute", "quiet"), [(21 * 60 + 59, False), (22 * 60, True), (0, True), (359, True), (360, False)]
)  # fmt: skip
def test_quiet_hours_go_over_midnight(minute: int, quiet: bool) -> None:
    assert is_quiet(["22:00-06:00"], minute) is quiet
    assert is_quiet(["12:00-13:30", "22:00-06:00"], 12 * 60 + 45)


# --- the governor --------------------------------------------------------------------------------


class Held(FakeServing):
    """Notes what models are told."""

    def __init__(self) -> None:
        names = (("hot", "cuda:0"), ("cool", "cuda:1"))
        super().__init__(
            None,
            *(
                model_status(name, info=_on(device))
                for name, device in names
            ),
        )  # fmt: skip
        self.shares: dict[str, float] = {}

    def hold(self, name: str, share: float) -> None:
        self.shares[name] = share


def _on(device: str) -> wire.ModelInfo:
    info = model_status().info
    assert info is not None
    return msgspec.structs.replace(info, stages=[wire.StageConfig("sim", device)])


def card(name: str, celsius: float | None, watts: float | None) -> Device:
    return Device(
        name=name, identity=name, kind="gpu", vendor="nvidia", description="a card",
        reading=Reading(temperature_celsius=celsius, power_watts=watts),
    )  # fmt: skip


def governor(serving: Held, limits: PowerConfig, cards: list[Device], hour: int = 12) -> Governor:
    return Governor(
        limits, serving, lambda: cards, clock=lambda: 0.0, wall=lambda: datetime(2026, 1, 1, hour)
    )


def test_heat_holds_the_models_of_the_device_and_nobody_else() -> None:
    serving = Held()
    one = governor(serving, HOT, [card("cuda:0", 91.0, 200.0), card("cuda:1", 60.0, 200.0)])
    one.look()
    assert serving.shares == {"hot": 0.5, "cool": 1.0}
    assert one.reasons == {"hot": "50% of its seats: 91 °C of 80 °C"}


def test_watts_hold_every_model() -> None:
    serving = Held()
    governor(serving, CAPPED, [card("cuda:0", None, 200.0), card("cuda:1", None, 101.0)]).look()
    assert serving.shares == {"hot": 0.5, "cool": 0.5}


def test_quiet_hours_hold_every_model_and_end() -> None:
    serving, limits = Held(), PowerConfig(quiet=("22:00-06:00",), quiet_share=0.25)
    cards = [card("cuda:0", 50.0, 50.0)]
    night = governor(serving, limits, cards, hour=23)
    night.look()
    assert serving.shares == {"hot": 0.25, "cool": 0.25}
    assert set(night.reasons.values()) == {"25% of its seats: quiet hours"}
    night.limits = PowerConfig()  # as a reload does
    night.look()
    assert serving.shares == {"hot": 1.0, "cool": 1.0}
    assert not night.reasons


async def test_a_held_engine_runs_as_many_as_it_may_and_all_get_their_answer(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:layers=1", concurrency=8)})
    rig.serving.hold("m", 0.25)
    await rig.until_state("ready")
    running: set[int] = set()
    counts: list[int] = []

    def note(i: int, *, is_last: bool) -> None:
        running.add(i)
        counts.append(len(running))
        if is_last:
            running.remove(i)

    async def follow_one(i: int) -> None:
        async with rig.ask(f"prompt {i}", max_tokens=24) as generation:
            async for delta in generation:
                note(i, is_last=delta.finish is not None)

    async with asyncio.TaskGroup() as group:
        for i in range(6):
            group.create_task(follow_one(i))
    assert len(counts) >= 6
    assert not running
    assert max(counts) == 2
