"""The planner: equal to brute force, never worse for more, never over a budget, and a reason for every no."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from boxes import (
    GIB,
    LINK,
    LINKS,
    best_by_force,
    by_memory,
    evenly,
    has_room,
    model,
    random_box,
    random_links,
    unit,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthd.errors import UnknownDevice
from hearthd.placement.cost import Demand, Link, ModelShape, Unit, predict
from hearthd.placement.planner import Plan, best_plan, plan
from hearthd.placement.request import Objective, Policy, Request, groups_of

N_CASES = 2000
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput")


def alone(found: Plan) -> float:
    return found.prediction.alone_tokens_per_second


def small_case(seed: int) -> tuple[list[Unit], ModelShape, Demand, random.Random]:
    chance = random.Random(seed)
    units = random_box(chance, chance.choice([1, 2, 2, 3, 3, 3, 3, 4]))
    n_layers = chance.randint(2, 4 if len(units) > 3 else 6)
    shape = replace(
        model(n_layers, kv_bytes=chance.choice([0, 4096, 1 << 16])),
        layer_bytes=tuple(chance.randint(1, 6) * GIB for _ in range(n_layers)),
        tied=chance.random() < 0.3,
    )
    return units, shape, Demand(4096, chance.choice([1, 2, 3, 8, 64]), 512), chance


@pytest.mark.parametrize(
    "seeds", [range(300), pytest.param(range(300, N_CASES), marks=pytest.mark.slow)], ids=str
)
def test_equal_to_brute_force(seeds: range) -> None:
    n_fitting = 0
    for seed in seeds:
        units, shape, demand, chance = small_case(seed)
        links = random_links(chance, units)
        request = Request(shape, demand.context, demand.concurrency)
        expected = best_by_force(units, shape, demand, links)
        quick = best_plan(request, units, links)
        busy = best_plan(replace(request, objective="throughput"), units, links)
        assert (expected is None) == (quick is None), seed
        if expected is None and busy is not None:
            assert len(busy.replicas) > 1, seed  # each copy has a part of the sequences only
        if expected is None or quick is None or busy is None:
            assert expected is None, seed
            continue
        n_fitting += 1
        assert alone(quick) == pytest.approx(expected[0], rel=1e-8), seed
        if len(busy.replicas) == 1:
            assert busy.prediction.tokens_per_second == pytest.approx(expected[1], rel=1e-8), seed
        else:
            assert busy.prediction.tokens_per_second >= expected[1] * (1 - 1e-8), seed
    assert len(seeds) / 3 < n_fitting < len(seeds)


@given(seed=st.integers(0, 10**6), objective=st.sampled_from(OBJECTIVES))
@settings(max_examples=60, deadline=None)
def test_sums_order_and_budgets(seed: int, objective: Objective) -> None:
    chance = random.Random(seed)
    units = random_box(chance, chance.randint(1, 5))
    shape = model(chance.randint(4, 40))
    request = Request(shape, None, chance.choice([1, 4, 16]), objective=objective)
    found = best_plan(request, units, LINKS)
    if found is None:
        return
    used: list[str] = []
    for replica in found.replicas:
        ends = [0, *(stage.last for stage in replica.stages)]
        assert [stage.first for stage in replica.stages] == ends[:-1]
        assert ends == sorted(set(ends))
        assert ends[-1] == shape.n_layers
        for stage in replica.stages:
            used += stage.unit.devices
            assert stage.memory.total_bytes <= stage.unit.budget_bytes
    assert len(used) == len(set(used))
    assert sum(r.demand.concurrency for r in found.replicas) == request.concurrency


@given(
    seed=st.integers(0, 10**6),
    better=st.sampled_from(["memory", "bandwidth", "both", "link", "device"]),
    objective=st.sampled_from(OBJECTIVES),
)
@settings(max_examples=60, deadline=None)
def test_more_never_hurts(seed: int, better: str, objective: Objective) -> None:
    chance = random.Random(seed)
    units = random_box(chance, chance.randint(1, 4))
    request = Request(model(chance.randint(4, 24)), 4096, 8, objective=objective)
    before = best_plan(request, units, LINKS)
    links, more = LINKS, list(units)
    i = chance.randrange(len(units))
    if better in ("memory", "both"):
        more[i] = replace(more[i], budget_bytes=more[i].budget_bytes * 2)
    if better in ("bandwidth", "both"):
        more[i] = replace(more[i], bytes_per_second=more[i].bytes_per_second * 1.5)
    if better == "link":
        links = {("", ""): Link(LINK.seconds / 2, LINK.bytes_per_second * 2)}
    if better == "device":
        more += [replace(random_box(chance, 1)[0], name="new", devices=("new",))]
    after = best_plan(request, more, links)
    if before is None:
        return
    assert after is not None
    if objective == "latency":
        assert alone(after) >= alone(before) * (1 - 1e-9)
    elif len(before.replicas) == 1:  # copies are found by rules
        one = before.prediction.tokens_per_second
        assert after.prediction.tokens_per_second >= one * (1 - 1e-9)


def test_the_order_of_devices_says_nothing() -> None:
    units = random_box(random.Random(7), 4)
    request = Request(model(30), 4096, 4)
    found = [best_plan(request, some, LINKS) for some in (units, units[::-1])]
    assert found[0] is not None
    assert found[1] is not None
    assert alone(found[0]) == pytest.approx(alone(found[1]))


def test_never_worse_than_rules_of_thumb() -> None:
    chance = random.Random(11)
    n_compared = 0
    while n_compared < 40:
        units = random_box(chance, chance.randint(2, 4))
        shape = model(chance.choice([16, 24, 32]))
        demand = Demand(4096, 16, 512)
        rivals = [by_memory(units, shape.n_layers), evenly(units, shape.n_layers)]
        fitting = [cuts for cuts in rivals if has_room(units, shape, demand, cuts)]
        if not fitting:
            continue
        n_compared += 1
        request = Request(shape, demand.context, demand.concurrency)
        quick = best_plan(request, units, LINKS)
        busy = best_plan(replace(request, objective="throughput"), units, LINKS)
        assert quick is not None
        assert busy is not None
        for cuts in fitting:
            rival = predict(units, shape, demand, LINKS, cuts)
            assert alone(quick) >= rival.alone_tokens_per_second * (1 - 1e-9)
            assert busy.prediction.tokens_per_second >= rival.tokens_per_second * (1 - 1e-9)


def test_one_user_gets_the_fastest_device_filled_first() -> None:
    units = [unit("slow", 64, 50), unit("fast", 8.5, 1000)]
    found = best_plan(Request(model(32), 256), units, LINKS)
    assert found is not None
    by_unit = {s.unit.name: s.last - s.first for s in found.replicas[0].stages}
    fast = found.replicas[0].stages[[s.unit.name for s in found.replicas[0].stages].index("fast")]
    assert by_unit["fast"] > 16
    assert fast.unit.budget_bytes - fast.memory.total_bytes < model(32).layer_bytes[0] + 256 * 4096


def test_what_fits_whole_is_not_cut_for_one_user() -> None:
    units = [unit("a", 24, 900), unit("b", 24, 900)]
    found = best_plan(Request(model(32), 4096), units, LINKS)
    assert found is not None
    assert len(found.replicas[0].stages) == 1


def test_a_model_that_fits_twice_is_there_twice_for_many() -> None:
    units = [unit("a", 24, 900), unit("b", 24, 900)]
    found = best_plan(Request(model(32), 1024, 16, objective="throughput"), units, LINKS)
    assert found is not None
    assert [len(replica.stages) for replica in found.replicas] == [1, 1]


def test_eight_equal_cards_and_a_model_for_two_make_four_copies() -> None:
    units = [unit(f"cuda:{i}", 10, 900) for i in range(8)]
    found = best_plan(Request(model(32), 256, 64, objective="throughput"), units, LINKS)
    assert found is not None
    assert [len(replica.stages) for replica in found.replicas] == [2, 2, 2, 2]


def test_context_is_a_result_unless_it_is_asked_for() -> None:
    units = [unit("a", 16, 900)]
    shape = model(32, kv_bytes=4096)
    free = best_plan(Request(shape, None, 4), units, LINKS)
    assert free is not None
    longest = free.context
    assert 4096 < longest < shape.context_trained
    assert best_plan(Request(shape, longest, 4), units, LINKS) is not None
    assert best_plan(Request(shape, longest + 256, 4), units, LINKS) is None


def test_a_refusal_says_what_would_fit() -> None:
    units = [replace(unit("cuda:0", 15, 900), held_bytes={"qwen": 9 * GIB})]
    refused = plan(Request(model(32), 32768, 4), units, LINKS)
    assert refused.plan is None
    assert refused.refusal.startswith(
        "model needs 29.5 GiB and workspace: weights 13.5 GiB + kv 16.0 GiB "
        "(32768 tokens x 4 sequences); there are 15.0 GiB on cuda:0; it would fit: "
    )
    assert "with a context of 3072 (x 4)" in refused.refusal
    assert "qwen" not in refused.refusal  # 24 GiB would not do either
    refused = plan(Request(model(32), 16384, 4), units, LINKS)
    assert "once qwen is unloaded" in refused.refusal
    large = replace(model(32), layer_parameters=(200 << 20,) * 32)
    refused = plan(Request(large, 256), [unit("cuda:0", 8, 900)], LINKS)
    assert "quantized to int8" in refused.refusal


def test_nothing_helps_is_said_too() -> None:
    refused = plan(Request(model(32), 256), [unit("cuda:0", 0.1, 900)], LINKS)
    assert "nothing known here would help" in refused.refusal


def test_disk_only_when_asked() -> None:
    host = unit("cpu:0", 4, 50, kind="cpu")
    disk = replace(host, name="cpu:0", disk_bytes_per_second=2e9)
    request = Request(model(32), 1024)
    refused = plan(request, [host, disk], LINKS)
    assert "--objective memory" in refused.refusal
    found = plan(replace(request, objective="memory"), [host, disk], LINKS).plan
    assert found is not None
    assert alone(found) < 0.2


def test_policies() -> None:
    units = [unit("cuda:0", 24, 900), unit("gpu:0", 24, 400), unit("cpu:0", 64, 50, kind="cpu")]
    request = Request(model(32), 1024)

    def used(policy: Policy) -> str:
        found = plan(replace(request, policy=policy), units, LINKS).plan
        assert found is not None
        return "+".join(stage.unit.name for stage in found.replicas[0].stages)

    assert used(Policy()) == "cuda:0"
    assert used(Policy(require=("cpu",))) == "cpu:0"
    assert used(Policy(prefer=("gpu:0",))) == "gpu:0"
    assert used(Policy(avoid=("gpu",))) == "cpu:0"
    assert used(Policy(avoid=("cuda:0", "cuda:7"))) == "gpu:0"
    assert used(Policy(require=("gpu",), avoid=("gpu",))) == "cuda:0"
    with pytest.raises(UnknownDevice, match="there are: cuda:0, gpu:0, cpu:0"):
        used(Policy(require=("cuda:1",)))


def test_preferred_devices_that_do_not_suffice_get_help() -> None:
    units = [unit("cuda:0", 6, 900), unit("cpu:0", 64, 50, kind="cpu")]
    found = plan(Request(model(32), 1024, policy=Policy(prefer=("gpu",))), units, LINKS).plan
    assert found is not None
    assert len(found.replicas[0].stages) == 2


def test_equal_cards_as_one() -> None:
    units = [unit(f"cuda:{i}", 24, 900) for i in range(2)]
    fast = {("", ""): Link(2e-6, 200e9)}
    request = Request(model(32), 1024)
    one = best_plan(request, units, fast)
    both = best_plan(request, [*units, *groups_of(units, fast)], fast)
    assert one is not None
    assert both is not None
    assert both.replicas[0].stages[0].unit.name == "cuda:0+cuda:1"
    assert 1.5 < alone(both) / alone(one) < 2
    slow = {("", ""): Link(5e-3, 1e9)}
    unpaid = best_plan(request, [*units, *groups_of(units, slow)], slow)
    assert unpaid is not None
    assert len(unpaid.replicas[0].stages[0].unit.devices) == 1


def test_devices_with_one_memory_do_not_get_it_twice() -> None:
    shared = [replace(unit(name, 16, 100), pool="host") for name in ("cpu:0", "gpu:0")]
    request = Request(model(32), 256)
    assert best_plan(request, shared, LINKS) is not None
    assert best_plan(replace(request, shape=model(48)), shared, LINKS) is None
    apart = [replace(one, pool="") for one in shared]
    assert best_plan(replace(request, shape=model(48)), apart, LINKS) is not None


def test_runners_up_are_other_plans_and_no_better() -> None:
    units = [unit("a", 24, 900), unit("b", 24, 400), unit("c", 64, 50)]
    outcome = plan(Request(model(32), 1024), units, LINKS)
    assert outcome.plan is not None
    assert outcome.runners_up
    assert len({p.signature for p in (outcome.plan, *outcome.runners_up)}) == 1 + len(
        outcome.runners_up
    )
    rates = [alone(p) for p in (outcome.plan, *outcome.runners_up)]
    assert rates == sorted(rates, reverse=True)


def test_many_devices_keep_their_order() -> None:
    units = [unit(f"gpu:{i}", 8, 900 - i) for i in range(12)]
    found = best_plan(Request(model(80), 1024), units, LINKS)
    assert found is not None
    assert [s.unit.name for s in found.replicas[0].stages] == sorted(
        (s.unit.name for s in found.replicas[0].stages), key=lambda name: int(name[4:])
    )
