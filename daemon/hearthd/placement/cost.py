"""Cost: what a stage takes of a device's time and memory; pure.

A layer takes as long as its weights, keys and values take to be read, or its arithmetic to be done, whichever is longer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from hearthd.placement.ledger import Footprint
from hearthd.placement.partition import Cuts, Problem

HIDDEN_BYTES = 4
"""Of one number that stages hand over: float32."""
STEP_ROWS = 512
"""Rows of a prompt that are computed in one step."""


@dataclass(frozen=True, slots=True)
class Link:
    """Between two units."""

    seconds: float  # before the first byte is there
    bytes_per_second: float

    def hop_seconds(self, rows: float, d_model: int) -> float:
        """To hand over the hidden states of some rows."""
        return self.seconds + rows * d_model * HIDDEN_BYTES / self.bytes_per_second


@dataclass(frozen=True, slots=True)
class Unit:
    """What one stage can run on: a device with a backend, or a group of equal devices that act as one."""

    name: str
    devices: tuple[str, ...]
    budget_bytes: int
    bytes_per_second: float  # that a step reads of weights, keys and values
    flops: tuple[tuple[int, float], ...]  # a second, by rows of a step, ascending
    backend: str = ""
    kind: str = "gpu"
    vendor: str = ""
    layer_seconds: float = 0.0  # of each layer, whatever it computes
    workspace_bytes: int = 0
    weights_factor: float = 1.0  # what weights take here of what they take in the file
    disk_bytes_per_second: float | None = None  # weights are read from the disk in each step
    pool: str = ""  # devices with the same one share their budget; empty: nobody does
    pool_bytes: int | None = None  # of all that share; None: the budget
    sync: Link | None = None  # of a group: its devices add up their results twice a layer
    held_bytes: Mapping[str, int] = field(
        default_factory=dict
    )  # by other models, beside the budget
    measured: bool = False  # whether its rates are

    def flops_at(self, rows: float) -> float:
        """A second; between two measured numbers of rows, in proportion."""
        below = self.flops[0]
        for above in self.flops:
            if above[0] >= rows:
                if above[0] == below[0]:
                    return above[1]
                part = (rows - below[0]) / (above[0] - below[0])
                return below[1] + part * (above[1] - below[1])
            below = above
        return below[1]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the model asks of any device; sequences of one value for each layer."""

    name: str
    layer_bytes: tuple[int, ...]
    layer_parameters: tuple[int, ...]
    layer_kv_bytes: tuple[int, ...]  # of one token
    embedding_bytes: int
    head_bytes: int
    head_parameters: int
    d_model: int
    context_trained: int
    tied: bool = False  # one matrix is embedding and head, and is held once where both are

    @property
    def n_layers(self) -> int:
        return len(self.layer_bytes)

    @property
    def weights_bytes(self) -> int:
        """Of the whole model on one device."""
        outer = self.head_bytes + (0 if self.tied else self.embedding_bytes)
        return sum(self.layer_bytes) + outer

    @property
    def kv_bytes(self) -> int:
        """Of one token in all layers."""
        return sum(self.layer_kv_bytes)

    def scaled(self, factor: float) -> ModelShape:
        """The same with smaller weights."""
        return replace(
            self,
            layer_bytes=tuple(int(n * factor) for n in self.layer_bytes),
            embedding_bytes=int(self.embedding_bytes * factor),
            head_bytes=int(self.head_bytes * factor),
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be served."""

    context: int  # tokens of each sequence
    concurrency: int = 1  # sequences at once
    prompt_tokens: int = 512  # of the prompt whose first token is predicted
    shared_tokens: int | None = None  # of key-value memory for all; None: each has its own context

    @property
    def kv_tokens(self) -> int:
        """Over all sequences."""
        most = self.context * self.concurrency
        return most if self.shared_tokens is None else min(most, self.shared_tokens)


Links = Mapping[tuple[str, str], Link]
"""By names of devices; the empty names: of all others."""


def link_between(links: Links, before: Unit, after: Unit) -> Link:
    """From the last device of a unit to the first of the next."""
    ends = before.devices[-1], after.devices[0]
    return links.get(ends) or links.get(ends[::-1]) or links["", ""]


def layer_seconds(
    unit: Unit, shape: ModelShape, rows: float, kv_tokens: float, *, heads: float | None = None
) -> list[float]:
    """Of each layer in a step of some rows over so many tokens of key-value memory; the head counts to the last.

    `heads`: rows that reach the head (None: all).
    """
    flops = unit.flops_at(rows)
    sync = 0.0
    if unit.sync is not None:
        sync = 2 * unit.sync.hop_seconds(rows, shape.d_model)
    found = []
    for n_bytes, n_parameters, kv in zip(
        shape.layer_bytes, shape.layer_parameters, shape.layer_kv_bytes, strict=True
    ):
        read = _read_seconds(unit, n_bytes) + kv * kv_tokens / unit.bytes_per_second
        found.append(max(read, 2 * n_parameters * rows / flops) + unit.layer_seconds + sync)
    wanted = rows if heads is None else heads
    computed = 2 * shape.head_parameters * wanted / unit.flops_at(wanted)
    found[-1] += max(_read_seconds(unit, shape.head_bytes), computed)
    return found


def _read_seconds(unit: Unit, n_bytes: int) -> float:
    rate = unit.bytes_per_second
    if unit.disk_bytes_per_second is not None:
        rate = min(rate, unit.disk_bytes_per_second)
    return n_bytes * unit.weights_factor / rate


def stage_memory(unit: Unit, shape: ModelShape, demand: Demand, first: int, last: int) -> Footprint:
    """Of layers [first, last) on a unit, with embedding and head where they belong."""
    weights = sum(shape.layer_bytes[first:last])
    is_whole = last - first == shape.n_layers
    if first == 0 and not (is_whole and shape.tied):
        weights += shape.embedding_bytes
    if last == shape.n_layers:
        weights += shape.head_bytes
    resident = unit.disk_bytes_per_second is None
    return Footprint(
        weights_bytes=math.ceil(weights * unit.weights_factor) if resident else 0,
        kv_bytes=sum(shape.layer_kv_bytes[first:last]) * demand.kv_tokens,
        workspace_bytes=unit.workspace_bytes,
    )


def problem_of(
    units: Sequence[Unit],
    shape: ModelShape,
    demand: Demand,
    links: Links,
    *,
    rows: float,
    most_stages: int | None = None,
) -> Problem:
    """Where the model may be cut, and what a step of `rows` sequences then costs, half way through their context."""
    devices = list(dict.fromkeys(name for unit in units for name in unit.devices))
    kv_tokens = rows * demand.context / 2
    return Problem(
        n_layers=shape.n_layers,
        masks=[sum(1 << devices.index(name) for name in unit.devices) for unit in units],
        seconds=[
            list(accumulate(layer_seconds(unit, shape, rows, kv_tokens), initial=0.0))
            for unit in units
        ],
        held=[_held(unit, shape, demand) for unit in units],
        room=[unit.budget_bytes - unit.workspace_bytes for unit in units],
        hops=[
            [link_between(links, a, b).hop_seconds(rows, shape.d_model) for b in units]
            for a in units
        ],
        most_stages=min(most_stages or len(devices), len(devices), shape.n_layers),
    )


def _held(unit: Unit, shape: ModelShape, demand: Demand) -> list[int]:
    """Sums of bytes over the first layers; embedding and head count to the first and the last."""
    resident = unit.disk_bytes_per_second is None
    factor = unit.weights_factor if resident else 0.0
    held = [
        math.ceil(n_bytes * factor) + kv * demand.kv_tokens
        for n_bytes, kv in zip(shape.layer_bytes, shape.layer_kv_bytes, strict=True)
    ]
    held[0] += math.ceil(shape.embedding_bytes * factor)
    held[-1] += math.ceil(shape.head_bytes * factor)
    return list(accumulate(held, initial=0))


@dataclass(frozen=True, slots=True)
class Prediction:
    """How fast a plan is, as far as its figures are right."""

    alone_tokens_per_second: float  # of one sequence that has it to itself
    tokens_per_second: float  # of all sequences together
    ttft_seconds: float  # of one prompt that finds it idle


def predict(
    units: Sequence[Unit], shape: ModelShape, demand: Demand, links: Links, cuts: Cuts
) -> Prediction:
    """Of one replica; as many micro-batches are in flight as there are stages, or sequences where these are fewer."""
    alone = problem_of(units, shape, demand, links, rows=1).stage_seconds(cuts)
    in_flight = min(len(cuts), demand.concurrency)
    stages = problem_of(
        units, shape, demand, links, rows=demand.concurrency / in_flight
    ).stage_seconds(cuts)
    period = max(sum(stages), in_flight * max(stages))
    return Prediction(
        alone_tokens_per_second=1 / sum(alone),
        tokens_per_second=demand.concurrency / period,
        ttft_seconds=_ttft_seconds(units, shape, demand, links, cuts),
    )


def _ttft_seconds(
    units: Sequence[Unit], shape: ModelShape, demand: Demand, links: Links, cuts: Cuts
) -> float:
    """Chunks of the prompt follow each other through the stages; only its last row reaches the head."""
    rows = min(demand.prompt_tokens, STEP_ROWS)
    n_chunks = demand.prompt_tokens / rows
    stages, before = [], None
    for cut in cuts:
        unit = units[cut.unit]
        seconds = layer_seconds(unit, shape, rows, demand.prompt_tokens / 2, heads=1)
        hop = 0.0
        if before is not None:
            hop = link_between(links, before, unit).hop_seconds(rows, shape.d_model)
        stages.append(sum(seconds[cut.first : cut.last]) + hop)
        before = unit
    return sum(stages) + (n_chunks - 1) * max(stages)


def as_group(members: Sequence[Unit], sync: Link) -> Unit:
    """Equal devices as one, each with a part of every layer."""
    n, one = len(members), members[0]
    return replace(
        one,
        name="+".join(unit.name for unit in members),
        devices=tuple(name for unit in members for name in unit.devices),
        budget_bytes=n * min(unit.budget_bytes for unit in members),
        workspace_bytes=n * one.workspace_bytes,
        bytes_per_second=n * one.bytes_per_second,
        flops=tuple((rows, n * rate) for rows, rate in one.flops),
        sync=sync,
    )
