"""Candidates: what the planner is told of the devices here, from what was measured where it was, and assumed where not; pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from hearthd.config.parse import parse_size
from hearthd.errors import InvalidRequest
from hearthd.hardware.checks import Calibration, PairReport, is_reliable
from hearthd.hardware.device import Device
from hearthd.hardware.memory import less_reserve
from hearthd.placement.cost import Link, Links, ModelShape, Unit
from hearthd.placement.ledger import HOST_POOL

ASSUMED_BYTES_PER_SECOND = {"cpu": 20e9, "gpu": 300e9, "npu": 60e9}
"""Of memory that nobody has measured."""
ASSUMED_FLOPS_PER_BYTE = {"cpu": 5.0, "gpu": 50.0, "npu": 50.0}
ASSUMED_LAYER_SECONDS = 20e-6
"""Of each layer, beside what it reads and computes."""
ASSUMED_LINK = Link(seconds=100e-6, bytes_per_second=8e9)
"""Between two stages on one machine."""
ASSUMED_DISK_BYTES_PER_SECOND = 1e9

_ADD = re.compile(r"add ([a-z]+):([0-9.]+[KMGT]?i?B)@([0-9.]+)GB/s(?:@([0-9.]+)TFLOPS)?")
_REMOVE = re.compile(r"remove (\S+)")


class Estimate(msgspec.Struct, frozen=True):
    """What a backend says a model takes on a device."""

    weights_bytes: int
    kv_bytes_per_token: float
    workspace_bytes: int


class Shape(msgspec.Struct, frozen=True):
    """What the engine reads of a model's header for the planner."""

    layer_parameters: list[int]
    embedding_bytes: int
    head_bytes: int
    head_parameters: int
    d_model: int
    tied: bool


class ModelFacts(msgspec.Struct, frozen=True):
    """What the engine's probe says of a model."""

    name: str
    task: str
    quantization: str
    context_trained: int
    layer_bytes: list[int]
    shape: Shape
    estimates: dict[str, dict[str, Estimate]]  # by backend and device, in the backend's words
    support: dict[str, dict[str, str]]  # "yes", or why not


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bytes that models may take."""

    host_bytes: int
    device_bytes: Mapping[str, int]  # as configured


def shape_of(facts: ModelFacts) -> ModelShape:
    """The model as the planner sees it; keys and values as the first backend counts them."""
    tokens = [e.kv_bytes_per_token for each in facts.estimates.values() for e in each.values()]
    n = len(facts.layer_bytes)
    return ModelShape(
        name=facts.name,
        layer_bytes=tuple(facts.layer_bytes),
        layer_parameters=tuple(facts.shape.layer_parameters),
        layer_kv_bytes=(-int(-max(tokens, default=0.0) // n),) * n,
        embedding_bytes=facts.shape.embedding_bytes,
        head_bytes=facts.shape.head_bytes,
        head_parameters=facts.shape.head_parameters,
        d_model=facts.shape.d_model,
        context_trained=facts.context_trained,
        tied=facts.shape.tied,
    )


def units_of(
    devices: Iterable[Device], reports: Sequence[PairReport], facts: ModelFacts, budgets: Budgets
) -> tuple[list[Unit], list[str]]:
    """Each device with each backend that supports the model there; and why others are left out, in words."""
    weights_bytes = shape_of(facts).weights_bytes
    units: list[Unit] = []
    left_out: list[str] = []
    for device in devices:
        if device.state != "ready":
            left_out.append(f"{device.name} is {device.state}: {device.problem}")
            continue
        for backend, own_name in device.backends.items():
            verdict = facts.support.get(backend, {}).get(own_name)
            estimate = facts.estimates.get(backend, {}).get(own_name)
            report = _report_of(device, backend, reports)
            budget = _budget_bytes(device, budgets)
            if verdict is None:
                continue  # a backend that does not read such files
            if verdict != "yes" or estimate is None:
                left_out.append(f"{device.name} with {backend}: {verdict}")
            elif report is not None and report.outcome in ("failed", "unsupported"):
                left_out.append(f"{device.name} with {backend}: {report.outcome}: {report.reason}")
            elif budget is None:
                left_out.append(f"{device.name}: its memory is not known: set memory.devices")
            else:
                units.append(_unit(device, backend, report, estimate, budget, weights_bytes))
    return units, left_out


def _unit(
    device: Device,
    backend: str,
    report: PairReport | None,
    estimate: Estimate,
    budget_bytes: int,
    weights_bytes: int,
) -> Unit:
    bytes_per_second = ASSUMED_BYTES_PER_SECOND[device.kind]
    flops: tuple[tuple[int, float], ...] = (
        (1, bytes_per_second * ASSUMED_FLOPS_PER_BYTE[device.kind]),
    )
    found = None if report is None else report.calibration
    if not is_reliable(found):
        found = None  # others ran meanwhile: what is assumed is nearer
    if found is not None:
        bytes_per_second, flops = found.weights_bytes_per_second, _flops(found)
    return Unit(
        name=device.name,
        devices=(device.name,),
        budget_bytes=budget_bytes,
        bytes_per_second=bytes_per_second,
        flops=flops,
        backend=backend,
        kind=device.kind,
        vendor=device.vendor,
        layer_seconds=ASSUMED_LAYER_SECONDS if found is None else 0.0,
        workspace_bytes=estimate.workspace_bytes,
        weights_factor=estimate.weights_bytes / weights_bytes,
        pool=HOST_POOL if device.kind == "cpu" or device.unified else "",
        measured=found is not None,
    )


def _flops(found: Calibration) -> tuple[tuple[int, float], ...]:
    """By rows; more rows never take less in all than fewer: noise is no gain."""
    best, rates = 0.0, []
    for rows, rate in sorted(found.matmul_flops.items()):
        best = max(best, rate)
        rates.append((rows, best))
    return tuple(rates)


def _report_of(device: Device, backend: str, reports: Sequence[PairReport]) -> PairReport | None:
    """The newest; with a calibration where there is one."""
    own = [r for r in reports if (r.identity, r.backend) == (device.identity, backend)]
    return next((r for r in own if r.calibration is not None), own[0] if own else None)


def _budget_bytes(device: Device, budgets: Budgets) -> int | None:
    if device.name in budgets.device_bytes:
        return budgets.device_bytes[device.name]
    if device.kind == "cpu" or device.unified:
        return budgets.host_bytes
    free = device.reading.free_bytes
    return None if free is None else less_reserve(free)


def from_disk(units: Sequence[Unit], reports: Sequence[PairReport]) -> list[Unit]:
    """Processors that read their weights from the disk in each step."""
    rates = [
        r.calibration.disk_bytes_per_second
        for r in reports
        if r.calibration is not None and r.calibration.disk_bytes_per_second is not None
    ]
    rate = max(rates, default=ASSUMED_DISK_BYTES_PER_SECOND)
    return [replace(u, disk_bytes_per_second=rate) for u in units if u.kind == "cpu"]


def links_of(devices: Iterable[Device]) -> Links:
    """Over the host: as fast as the slower slot of the two, where slots are known."""
    links: dict[tuple[str, str], Link] = {("", ""): ASSUMED_LINK}
    slots = {}
    for device in devices:
        if device.gpu is not None and device.gpu.link is not None:
            slot = device.gpu.link
            slots[device.name] = 0.8 * slot.gigatransfers * slot.width / 8 * 1e9
        elif device.kind == "cpu":
            slots[device.name] = float("inf")
    for a, rate_a in slots.items():
        for b, rate_b in slots.items():
            slower = min(rate_a, rate_b)
            if a != b and slower < float("inf"):
                links[a, b] = Link(ASSUMED_LINK.seconds, slower)
    return links


def changed(units: Sequence[Unit], facts: ModelFacts, what_if: Sequence[str]) -> list[Unit]:
    """The devices as they would be: "add KIND:SIZE@RATE" and "remove NAME"; raises InvalidRequest."""
    found = list(units)
    for text in what_if:
        added, removed = _ADD.fullmatch(text.strip()), _REMOVE.fullmatch(text.strip())
        if added is not None:
            found.append(_imagined(added, found, facts))
        elif removed is not None and any(removed[1] in unit.devices for unit in found):
            found = [unit for unit in found if removed[1] not in unit.devices]
        elif removed is not None:
            names = ", ".join(dict.fromkeys(unit.name for unit in units))
            raise InvalidRequest(f"what-if: there is no device {removed[1]!r}; there are: {names}")
        else:
            raise InvalidRequest(
                f"what-if: {text!r} is neither 'add cuda:24GiB@900GB/s' (with '@80TFLOPS' after it if you "
                "know) nor 'remove cpu:0'"
            )
    return found


def _imagined(text: re.Match[str], known: Sequence[Unit], facts: ModelFacts) -> Unit:
    """A device of that memory and speed; what a backend takes there is as on those known."""
    kind = text[1] if text[1] in ASSUMED_BYTES_PER_SECOND else "gpu"
    size = parse_size(text[2])
    if not isinstance(size, int):
        raise InvalidRequest(f"what-if: {text[2]!r} is no size; say 24GiB")
    rate = float(text[3]) * 1e9
    flops = float(text[4]) * 1e12 if text[4] else rate * ASSUMED_FLOPS_PER_BYTE[kind]
    if not rate or not flops:
        raise InvalidRequest(f"what-if: {text[0]!r}: a device that computes nothing")
    n = sum(unit.name.startswith(f"{text[1]}:new") for unit in known)
    name = f"{text[1]}:new{n}"
    workspaces = [e.workspace_bytes for each in facts.estimates.values() for e in each.values()]
    return Unit(
        name=name,
        devices=(name,),
        budget_bytes=less_reserve(size),
        bytes_per_second=rate,
        flops=((1, flops),),
        backend=text[1] if text[1] == "cuda" else "",
        kind=kind,
        layer_seconds=ASSUMED_LAYER_SECONDS,
        workspace_bytes=max(workspaces, default=0),
    )
