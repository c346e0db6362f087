"""Request: what is asked of the planner, which units that allows, and whether it fits at all; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Literal, TypeAlias

from hearthd.errors import UnknownDevice
from hearthd.placement.cost import (
    Demand,
    Link,
    Links,
    ModelShape,
    Unit,
    as_group,
    link_between,
    problem_of,
    stage_memory,
)
from hearthd.placement.partition import reach

Objective: TypeAlias = Literal["latency", "throughput", "memory"]
"""latency: one sequence alone is quickest. throughput: all together are. memory: as latency, and what has no room in
memory is read from the disk in each step."""

FIRST_CONTEXT = 4096
"""Where nobody says how long sequences are, a plan is made for so many tokens, and then gets what it has room for."""
CONTEXT_STEP = 256
SHARED_TOKENS = 32768
"""Of key-value memory that sequences share, where nobody says how many and contexts are not longer: as engines take them."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Words that are names of devices, kinds or vendors."""

    require: tuple[str, ...] = ()  # nothing else is used
    prefer: tuple[str, ...] = ()  # nothing else is used where they suffice
    avoid: tuple[str, ...] = ()  # used only where nothing else suffices


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the planner; a context of None is a result."""

    shape: ModelShape
    context: int | None = None
    concurrency: int = 1
    prompt_tokens: int = 512
    objective: Objective = "latency"
    policy: Policy = Policy()
    pooled: bool = False  # sequences share key-value memory; else each has its whole context
    kv_tokens: int | None = None  # of what they share; None: a result

    def demands(self, context: int) -> list[Demand]:
        """For sequences of that length, the roomiest first; any of them will do."""
        prompt_tokens = min(self.prompt_tokens, context)
        if not self.pooled:
            return [Demand(context, self.concurrency, prompt_tokens)]
        shared = (
            (max(context, SHARED_TOKENS), context) if self.kv_tokens is None else (self.kv_tokens,)
        )
        return [
            Demand(context, self.concurrency, prompt_tokens, tokens)
            for tokens in dict.fromkeys(shared)
        ]

    def demand(self, context: int) -> Demand:
        """The least for sequences of that length."""
        return self.demands(context)[-1]


def check_policy(policy: Policy, units: Sequence[Unit]) -> None:
    """Raises UnknownDevice where a word is true of nothing here; what is to be avoided may be absent."""
    for word in (*policy.require, *policy.prefer):
        if not any(is_meant(word, unit) for unit in units):
            names = dict.fromkeys(name for unit in units for name in unit.devices)
            kinds = dict.fromkeys(unit.kind for unit in units)
            vendors = dict.fromkeys(unit.vendor for unit in units if unit.vendor)
            raise UnknownDevice(
                f"there is no device {word!r}; there are: {', '.join(names) or 'none'}"
                f" (kinds: {', '.join(kinds)}; vendors: {', '.join(vendors)})"
            )


def is_meant(word: str, unit: Unit) -> bool:
    """Whether a word of a policy is true of a unit, or of one of its devices."""
    return word in (unit.kind, unit.vendor) or word in unit.devices


def tiers(policy: Policy, units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Units that may be used, and more of them each time."""
    allowed = _those(policy.require, units) if policy.require else list(units)
    avoided = [unit for unit in allowed if any(is_meant(word, unit) for word in policy.avoid)]
    willing = [unit for unit in allowed if unit not in avoided]
    seen: list[list[Unit]] = [[]]
    for tier in (_those(policy.prefer, willing), willing, allowed):
        if tier not in seen:
            seen.append(tier)
            yield tier


def _those(words: Sequence[str], units: Iterable[Unit]) -> list[Unit]:
    """Units that are meant as a whole: of a group, every device."""
    return [
        unit
        for unit in units
        if unit.kind in words or unit.vendor in words or set(unit.devices) <= set(words)
    ]


def fits(request: Request, units: Sequence[Unit], links: Links, context: int) -> bool:
    """Whether there is a plan at all."""
    demand = request.demand(context)
    allowed = usable(request, units)
    return any(
        any(fits_whole(unit, request.shape, demand) for unit in some)
        or reach(problem_of(some, request.shape, demand, links, rows=1)) is not None
        for some in without_shared_memory(allowed)
        if some
    )


def groups_of(units: Sequence[Unit], links: Links) -> list[Unit]:
    """Equal GPUs of one backend as one device: pairs, fours, eights."""
    found: list[Unit] = []
    alike: dict[object, list[Unit]] = {}
    for unit in units:
        if unit.kind == "gpu" and len(unit.devices) == 1 and unit.disk_bytes_per_second is None:
            key = (unit.backend, unit.vendor, unit.bytes_per_second, unit.flops)
            alike.setdefault(key, []).append(unit)
    for members in alike.values():
        for n in (2, 4, 8):
            for start in range(0, len(members) - n + 1, n):
                group = members[start : start + n]
                found.append(as_group(group, _slowest(group, links)))
    return found


def _slowest(group: Sequence[Unit], links: Links) -> Link:
    pairs = [link_between(links, a, b) for a, b in combinations(group, 2)]
    return Link(max(link.seconds for link in pairs), min(link.bytes_per_second for link in pairs))


def without_shared_memory(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Devices that share their memory each alone with all of it, or all with equal parts."""
    pools: dict[str, list[str]] = {}
    for unit in units:
        if unit.pool and unit.devices[0] not in pools.setdefault(unit.pool, []):
            pools[unit.pool].append(unit.devices[0])
    shared = {pool: names for pool, names in pools.items() if len(names) > 1}
    choices = [[*([name] for name in names), names] for names in shared.values()]
    for chosen in product(*choices):
        share = dict(zip(shared, chosen, strict=True))
        yield [
            replace(unit, budget_bytes=_part_of_pool(unit, len(share[unit.pool])))
            if unit.pool in share
            else unit
            for unit in units
            if unit.pool not in share or unit.devices[0] in share[unit.pool]
        ]


def _part_of_pool(unit: Unit, n: int) -> int:
    whole = unit.budget_bytes if unit.pool_bytes is None else unit.pool_bytes
    return min(unit.budget_bytes, whole // n)


def usable(request: Request, units: Sequence[Unit]) -> list[Unit]:
    """Without those that read weights from the disk, unless they are asked for."""
    if request.objective == "memory":
        return list(units)
    return [unit for unit in units if unit.disk_bytes_per_second is None]


def fits_whole(unit: Unit, shape: ModelShape, demand: Demand) -> bool:
    return stage_memory(unit, shape, demand, 0, shape.n_layers).total_bytes <= unit.budget_bytes
