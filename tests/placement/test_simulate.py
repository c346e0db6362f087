"""The simulator: as the cost model says where nothing disturbs it, the same for the same seed, and nothing is lost."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from boxes import LINKS, model, unit

from hearthd.placement.planner import best_plan
from hearthd.placement.request import Request
from hearthd.placement.simulate import Arrival, Failure, Fleet, simulate

REQUEST = Request(model(32), 2048, 8, objective="throughput")
CARDS = (unit("a", 10, 900), unit("b", 10, 600), unit("c", 10, 300))


def crowd(n: int, n_output: int = 200) -> list[Arrival]:
    return [Arrival(0.0, 1, n_output) for _ in range(n)]


@pytest.mark.parametrize("seed", range(9))
def test_within_five_percent_of_the_cost_model(seed: int) -> None:
    """On one copy of the model in several stages, whose micro-batches are of equal size."""
    chance = random.Random(seed)
    request = replace(REQUEST, concurrency=12)
    while True:
        box = [
            unit(f"gpu:{i}", 10, chance.choice([200, 400, 900])) for i in range(1 + seed % 3 + 1)
        ]
        found = best_plan(request, box, LINKS)
        if found is not None and len(found.replicas) == 1:
            break
    assert len(found.replicas[0].stages) > 1
    result = simulate(Fleet(request, (tuple(box),), LINKS), crowd(12))
    expected = found.prediction.tokens_per_second
    assert result.tokens_per_second == pytest.approx(expected, rel=0.05)


def test_one_alone_is_as_quick_as_predicted() -> None:
    request = replace(REQUEST, objective="latency", concurrency=1)
    found = best_plan(request, CARDS, LINKS)
    assert found is not None
    result = simulate(Fleet(request, (CARDS,), LINKS), crowd(1))
    expected = found.prediction.alone_tokens_per_second
    assert result.tokens_per_second == pytest.approx(expected, rel=0.05)


def test_the_same_for_the_same_seed() -> None:
    chance = random.Random(3)
    trace = [Arrival(i * 0.3, chance.randint(1, 900), chance.randint(1, 60)) for i in range(40)]
    fleet = Fleet(REQUEST, (CARDS,), LINKS, jitter=0.2)
    ends = [[j.end_seconds for j in simulate(fleet, trace, seed).jobs] for seed in (1, 1, 2)]
    assert ends[0] == ends[1]
    assert ends[0] != ends[2]


def test_a_lost_device_loses_no_request() -> None:
    trace = crowd(8, 400)
    calm = simulate(Fleet(REQUEST, (CARDS,), LINKS), trace)
    lost = Failure(0, "a", calm.seconds / 2, 1e9)
    spare = (*CARDS, unit("d", 10, 200))
    result = simulate(Fleet(REQUEST, (spare,), LINKS, failures=(lost,)), trace)
    assert result.n_unserved == 0
    assert [job.n_output for job in result.jobs] == [400] * 8
    assert any(job.n_moved for job in result.jobs)


def test_a_lost_device_that_nothing_uses_disturbs_nobody() -> None:
    box = (unit("a", 24, 900), unit("small", 1, 100))
    lost = Failure(0, "small", 0.5, 1.0)
    result = simulate(Fleet(REQUEST, (box,), LINKS, failures=(lost,)), crowd(8))
    assert not any(job.n_moved for job in result.jobs)


def test_what_fits_no_more_waits_for_the_device() -> None:
    lost = Failure(0, "a", 0.5, 100.0)
    two = CARDS[:2]
    result = simulate(Fleet(REQUEST, (two,), LINKS, failures=(lost,)), crowd(2, 400))
    assert result.n_unserved == 0
    assert result.seconds > 100
    never = replace(lost, for_seconds=float("inf"))
    gone = simulate(Fleet(REQUEST, (two,), LINKS, failures=(never,)), crowd(2, 400))
    assert gone.n_unserved == 2


def test_many_boxes_share_by_two_choices() -> None:
    one = simulate(Fleet(REQUEST, (CARDS,), LINKS), crowd(8, 60))
    many = simulate(Fleet(REQUEST, (CARDS,) * 100, LINKS), crowd(800, 60))
    assert many.n_unserved == 0
    assert many.tokens_per_second == pytest.approx(100 * one.tokens_per_second, rel=0.05)


def test_ten_boxes_are_ten_times_one() -> None:
    one = simulate(Fleet(REQUEST, (CARDS,), LINKS), crowd(8))
    ten = simulate(Fleet(REQUEST, (CARDS,) * 10, LINKS), crowd(80))
    assert ten.tokens_per_second == pytest.approx(10 * one.tokens_per_second, rel=0.05)
