"""How long the planner takes, and how its plans compare with splitting by memory and evenly.

python bench/planner.py [--boxes 200] [--seed 1] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))

from boxes import LINKS, by_memory, evenly, has_room, model, random_box

from hearthd.placement.cost import Demand, Links, Unit, predict
from hearthd.placement.planner import best_plan, plan
from hearthd.placement.request import Objective, Request

Decide = Callable[[Request, list[Unit], Links], object]
SIZES = ((3, 32), (4, 32), (5, 64), (6, 80), (8, 80))
DECISIONS: tuple[tuple[str, Decide], ...] = (("best", best_plan), ("with runners-up", plan))
ROUNDS = 5
BOXES = 5
OBJECTIVES: tuple[Objective, ...] = ("latency", "throughput")


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {"seconds": times(arguments.seed), "factors": factors(arguments.boxes, arguments.seed)}
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for name, seconds in found["seconds"].items():
        print(f"{name:44} {seconds * 1e3:9.2f} ms")
    for name, value in found["factors"].items():
        print(f"{name:44} {value:9.3f}")
    return 0


def times(seed: int) -> dict[str, float]:
    """Seconds of a decision: the median over boxes, the fastest of some rounds on each."""
    found: dict[str, float] = {}
    for n_devices, n_layers in SIZES:
        boxes = _fitting(n_devices, n_layers, seed)
        for objective in OBJECTIVES:
            for name, decide in DECISIONS:
                label = f"{n_devices} devices x {n_layers} layers, {objective}, {name}"
                found[label] = median(
                    _fastest(decide, _request(n_layers, objective), box) for box in boxes
                )
    return found


def _request(n_layers: int, objective: Objective) -> Request:
    return Request(model(n_layers), 4096, 16, objective=objective)


def _fitting(n_devices: int, n_layers: int, seed: int) -> list[list[Unit]]:
    """Boxes on which the model needs more than one device."""
    chance = random.Random(seed)
    found: list[list[Unit]] = []
    while len(found) < BOXES:
        box = random_box(chance, n_devices)
        fits = best_plan(_request(n_layers, "latency"), box, LINKS)
        if fits is not None and len(fits.replicas[0].stages) > 1:
            found.append(box)
    return found


def _fastest(decide: Decide, request: Request, box: list[Unit]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        began = perf_counter()
        decide(request, box, LINKS)
        seconds.append(perf_counter() - began)
    return min(seconds)


def factors(n_boxes: int, seed: int) -> dict[str, float]:
    """How many times as fast the plan is as each rule of thumb, where that fits at all."""
    chance = random.Random(seed)
    found: dict[str, list[float]] = {}
    boxes = 0
    while boxes < n_boxes:
        box = random_box(chance, chance.randint(2, 4))
        shape, demand = model(chance.choice([16, 24, 32])), Demand(4096, 16, 512)
        request = Request(shape, demand.context, demand.concurrency)
        quick = best_plan(request, box, LINKS)
        busy = best_plan(replace(request, objective="throughput"), box, LINKS)
        if quick is None or busy is None:
            continue
        boxes += 1
        for name, cuts in (
            ("memory", by_memory(box, shape.n_layers)),
            ("even", evenly(box, shape.n_layers)),
        ):
            if not has_room(box, shape, demand, cuts):
                found.setdefault(f"{name}, does not fit", []).append(1)
                continue
            rival = predict(box, shape, demand, LINKS, cuts)
            for mode, factor in (
                (
                    "latency",
                    quick.prediction.alone_tokens_per_second / rival.alone_tokens_per_second,
                ),
                ("throughput", busy.prediction.tokens_per_second / rival.tokens_per_second),
            ):
                found.setdefault(f"{mode} against {name}", []).append(factor)
    table: dict[str, float] = {}
    for name, values in found.items():
        if "not fit" in name:
            table[f"{name}, boxes of {n_boxes}"] = len(values)
        else:
            table[f"{name}, median of {len(values)}"] = median(values)
            table[f"{name}, least"] = min(values)
    return table


if __name__ == "__main__":
    sys.exit(main())
