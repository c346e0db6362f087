"""Random boxes and models for tests of the planner, and its rivals: brute force, and rules of thumb."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

from hearthd.placement.cost import Demand, Link, Links, ModelShape, Unit, problem_of, stage_memory
from hearthd.placement.partition import Cut, Cuts

GIB = 1 << 30
LINK = Link(0.0001, 8e9)
LINKS: Links = {("", ""): LINK}


def model(
    n_layers: int,
    *,
    layer_bytes: int = 400 << 20,
    kv_bytes: int = 4096,
    outer_bytes: int = GIB // 2,
) -> ModelShape:
    """Equal layers of four bits."""
    return ModelShape(
        name="model",
        layer_bytes=(layer_bytes,) * n_layers,
        layer_parameters=(2 * layer_bytes,) * n_layers,
        layer_kv_bytes=(kv_bytes,) * n_layers,
        embedding_bytes=outer_bytes,
        head_bytes=outer_bytes,
        head_parameters=2 * outer_bytes,
        d_model=4096,
        context_trained=32768,
    )


def unit(
    name: str, gib: float, gb_per_second: float, tflops: float | None = None, *, kind: str = "gpu"
) -> Unit:
    """A device whose arithmetic goes with its memory where nobody says otherwise."""
    flops = (tflops or gb_per_second / 10) * 1e12
    return Unit(
        name=name,
        devices=(name,),
        budget_bytes=int(gib * GIB),
        bytes_per_second=gb_per_second * 1e9,
        flops=((1, flops),),
        kind=kind,
        layer_seconds=20e-6,
    )


def random_box(chance: random.Random, n_devices: int) -> list[Unit]:
    """Unequal devices, from a laptop's memory to a large card's."""
    return [
        unit(
            f"gpu:{i}",
            chance.choice([4, 6, 8, 12, 16, 24, 32, 48, 64]),
            chance.choice([40, 80, 200, 400, 900, 2000, 3000]),
        )
        for i in range(n_devices)
    ]


def random_links(chance: random.Random, units: Sequence[Unit]) -> Links:
    """Each pair its own."""
    links = dict(LINKS)
    for a, b in combinations(units, 2):
        links[a.name, b.name] = Link(
            chance.choice([0.00001, 0.0002, 0.002]), chance.choice([1e8, 1e9, 2e10])
        )
    return links


def every_cut(n_layers: int, n_units: int) -> Iterator[Cuts]:
    """Each sequence of different units, with at least one layer on each."""
    for n in range(1, min(n_units, n_layers) + 1):
        for order in permutations(range(n_units), n):
            for inner in combinations(range(1, n_layers), n - 1):
                ends = [0, *inner, n_layers]
                yield tuple(Cut(u, ends[i], ends[i + 1]) for i, u in enumerate(order))


def has_room(units: Sequence[Unit], shape: ModelShape, demand: Demand, cuts: Cuts) -> bool:
    """Whether each stage fits into its budget."""
    return all(
        stage_memory(units[c.unit], shape, demand, c.first, c.last).total_bytes
        <= units[c.unit].budget_bytes
        for c in cuts
    )


def best_by_force(
    units: Sequence[Unit], shape: ModelShape, demand: Demand, links: Links
) -> tuple[float, float] | None:
    """The most tokens a second of one sequence, and of all; None where nothing fits."""
    lone = problem_of(units, shape, demand, links, rows=1)
    n_most = min(len(units), demand.concurrency)
    crowded = {
        n: problem_of(units, shape, demand, links, rows=demand.concurrency / n)
        for n in range(1, n_most + 1)
    }
    alone = together = 0.0
    for cuts in every_cut(shape.n_layers, len(units)):
        if not has_room(units, shape, demand, cuts):
            continue
        n = min(len(cuts), demand.concurrency)
        stages = crowded[n].stage_seconds(cuts)
        alone = max(alone, 1 / sum(lone.stage_seconds(cuts)))
        together = max(together, demand.concurrency / max(sum(stages), n * max(stages)))
    return (alone, together) if alone else None


def by_memory(units: Sequence[Unit], n_layers: int) -> Cuts:
    """Layers in proportion to memory, by largest remainders, on all devices."""
    total = sum(u.budget_bytes for u in units)
    return _counted([n_layers * u.budget_bytes / total for u in units], n_layers)


def evenly(units: Sequence[Unit], n_layers: int) -> Cuts:
    """As many layers on each device."""
    return _counted([n_layers / len(units)] * len(units), n_layers)


def _counted(shares: Sequence[float], n_layers: int) -> Cuts:
    counts = [int(share) for share in shares]
    rest = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in rest[: n_layers - sum(counts)]:
        counts[i] += 1
    cuts, first = [], 0
    for i, n in enumerate(counts):
        if n:
            cuts.append(Cut(i, first, first + n))
            first += n
    return tuple(cuts)
