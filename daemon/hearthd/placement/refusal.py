"""Refusal: why a model fits nowhere, in numbers, and what would; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from hearthd.placement.cost import Demand, Links, ModelShape, Unit
from hearthd.placement.ledger import format_bytes
from hearthd.placement.request import CONTEXT_STEP, Request, fits, tiers

KINDS = (("int8", 8.5), ("int4", 4.5))
"""What `hearth quantize` writes, and bits that a parameter then takes."""


def refusal(request: Request, units: Sequence[Unit], links: Links) -> str:
    """The arithmetic, and everything that would help."""
    shape = request.shape
    allowed = list(tiers(request.policy, units))[-1:] or [[]]
    resident = [unit for unit in allowed[0] if unit.disk_bytes_per_second is None]
    context = request.context or min(CONTEXT_STEP, shape.context_trained)
    demand = request.demand(context)
    kv_bytes = shape.kv_bytes * demand.kv_tokens
    lines = [
        f"{shape.name} needs {format_bytes(shape.weights_bytes + kv_bytes)} and workspace: weights "
        f"{format_bytes(shape.weights_bytes)} + kv {format_bytes(kv_bytes)} ({_tokens(demand)}); "
        f"there are {_room(resident)}"
    ]
    helps = list(_what_helps(request, allowed[0], links, context))
    lines.append(f"it would fit: {'; '.join(helps)}" if helps else "nothing known here would help")
    return "; ".join(lines)


def _tokens(demand: Demand) -> str:
    if demand.shared_tokens is None:
        return f"{demand.context} tokens x {demand.concurrency} sequences"
    return f"{demand.kv_tokens} tokens, for contexts of {demand.context}"


def _room(units: Sequence[Unit]) -> str:
    """Budgets by device; what shares its memory with others says so."""
    words = {}
    pools = Counter(pool for _, pool in {(unit.devices[0], unit.pool) for unit in units})
    for unit in units:
        if len(unit.devices) == 1:
            shared = " (shared)" if unit.pool and pools[unit.pool] > 1 else ""
            words[unit.devices[0]] = (
                f"{format_bytes(unit.budget_bytes)} on {unit.devices[0]}{shared}"
            )
    return ", ".join(words.values()) or "no devices that may be used"


def _what_helps(
    request: Request, units: Sequence[Unit], links: Links, context: int
) -> Iterator[str]:
    smaller = _most(
        lambda n: fits(request, units, links, n * CONTEXT_STEP), context // CONTEXT_STEP
    )
    if smaller:
        yield f"with a context of {smaller * CONTEXT_STEP} (x {request.concurrency})"
    fewer = _most(
        lambda n: fits(replace(request, concurrency=n), units, links, context),
        request.concurrency - 1,
    )
    if fewer:
        yield f"with {fewer} sequences at once (x {context} tokens)"
    bits = _bits(request.shape)
    for kind, kind_bits in KINDS:
        if kind_bits < 0.9 * bits:
            less = replace(request, shape=request.shape.scaled(kind_bits / bits))
            if fits(less, units, links, context):
                yield f"quantized to {kind} (hearth quantize --to {kind})"
                break
    yield from _freed(request, units, links, context)
    has_disk = any(unit.disk_bytes_per_second for unit in units)
    on_disk = replace(request, objective="memory")
    if request.objective != "memory" and has_disk and fits(on_disk, units, links, context):
        yield "with layers read from the disk in every step (--objective memory), slowly"


def _freed(request: Request, units: Sequence[Unit], links: Links, context: int) -> Iterator[str]:
    holders = dict.fromkeys(holder for unit in units for holder in unit.held_bytes)
    for holder in holders:
        freed = [
            replace(unit, budget_bytes=unit.budget_bytes + unit.held_bytes.get(holder, 0))
            for unit in units
        ]
        if fits(request, freed, links, context):
            yield f"once {holder} is unloaded"


def _most(is_good: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that is good; 0: none. What is smaller than a good one is good."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if is_good(middle):
            least = middle
        else:
            most = middle - 1
    return least


def _bits(shape: ModelShape) -> float:
    """Of one parameter in the layers, as the file has it."""
    return 8 * sum(shape.layer_bytes) / max(1, sum(shape.layer_parameters))
