"""`hearthd simulate FLEET TRACE`: what a fleet that is not here would do with a trace of requests."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from hearthd.config.parse import parse_size
from hearthd.errors import InvalidRequest
from hearthd.exits import EXIT_FAILED
from hearthd.placement.cost import Link, ModelShape, Unit
from hearthd.placement.planner import best_plan
from hearthd.placement.request import Request
from hearthd.placement.simulate import Arrival, Failure, Fleet, Result, simulate

Positive: TypeAlias = Annotated[float, Meta(gt=0)]
Count: TypeAlias = Annotated[int, Meta(ge=1)]

_FLEET = """\
fleet.toml:
  context = 4096               # tokens of a sequence
  concurrency = 16             # sequences at once on each box
  objective = "throughput"     # or "latency"
  jitter = 0.05                # standard deviation of a stage's time, as a part of it
  replan_seconds = 10
  [model]
  layers = 32
  layer = "125MiB"             # weights of one layer
  parameters = 6.98e9          # of all layers
  outer = "400MiB"             # embedding, and as much for the head
  kv_bytes = 4096              # of one token in one layer
  width = 4096                 # numbers between two stages, for each token
  [link]
  seconds = 0.0001
  gb_per_second = 8
  [[box]]
  count = 10
  devices = [{name = "cuda:0", memory = "24GiB", gb_per_second = 900, tflops = 80}]
  [[failure]]
  box = 0
  device = "cuda:0"
  at_seconds = 60
  for_seconds = 600            # unset: for ever

trace.jsonl, a request a line: {"at_seconds": 0.5, "prompt_tokens": 300, "output_tokens": 120}
"""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class _Model(_Table, frozen=True):
    layers: Count
    layer: str
    parameters: Positive
    outer: str
    kv_bytes: int
    width: Count


class _Link(_Table, frozen=True):
    seconds: float = 100e-6
    gb_per_second: Positive = 8.0


class _Device(_Table, frozen=True):
    name: str
    memory: str
    gb_per_second: Positive
    tflops: Positive


class _Box(_Table, frozen=True):
    devices: Annotated[list[_Device], Meta(min_length=1)]
    count: Count = 1


class _Failure(_Table, frozen=True):
    box: int
    device: str
    at_seconds: float
    for_seconds: float = float("inf")


class _File(_Table, frozen=True):
    model: _Model
    box: Annotated[list[_Box], Meta(min_length=1)]
    context: Count = 4096
    concurrency: Count = 16
    objective: Literal["latency", "throughput"] = "throughput"
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.0
    replan_seconds: Annotated[float, Meta(ge=0)] = 10.0
    link: _Link = _Link()
    failure: list[_Failure] = []


class _Line(msgspec.Struct, frozen=True):
    at_seconds: Annotated[float, Meta(ge=0)]
    prompt_tokens: Count
    output_tokens: Count


def main(argv: Sequence[str]) -> int:
    """Do what comes after the word `simulate`; returns the exit status, raises HearthError."""
    arguments = parser().parse_args(argv)
    fleet = read_fleet(Path(arguments.fleet))
    trace = list(read_trace(Path(arguments.trace)))
    result = simulate(fleet, trace, arguments.seed)
    value = summary(fleet, result)
    if arguments.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{name:26} {_shown(what)}\n" for name, what in value.items()))
    return EXIT_FAILED if result.n_unserved else 0


def read_fleet(path: Path) -> Fleet:
    """The boxes; raises InvalidRequest, naming the file and what is wrong."""
    try:
        file = msgspec.convert(tomllib.loads(path.read_text()), _File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidRequest(f"{path}: {error}") from error
    boxes: list[tuple[Unit, ...]] = []
    for box in file.box:
        boxes += [tuple(_unit(device, path) for device in box.devices)] * box.count
    for failure in file.failure:
        if not 0 <= failure.box < len(boxes) or failure.device not in {
            unit.name for unit in boxes[failure.box]
        }:
            raise InvalidRequest(f"{path}: box {failure.box} has no device {failure.device!r}")
    return Fleet(
        request=Request(
            _shape(file.model, path), file.context, file.concurrency, objective=file.objective
        ),
        boxes=tuple(boxes),
        links={("", ""): Link(file.link.seconds, file.link.gb_per_second * 1e9)},
        jitter=file.jitter,
        failures=tuple(
            Failure(one.box, one.device, one.at_seconds, one.for_seconds) for one in file.failure
        ),
        replan_seconds=file.replan_seconds,
    )


def read_trace(path: Path) -> Iterator[Arrival]:
    """The requests; raises InvalidRequest, naming the file and the line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidRequest(f"{path}: {error}") from error
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError as error:
            raise InvalidRequest(f"{path}:{i + 1}: {error}") from error
        yield Arrival(found.at_seconds, found.prompt_tokens, found.output_tokens)


def summary(fleet: Fleet, result: Result) -> dict[str, Any]:
    """What came of it, in figures; None where nobody was answered."""
    done = [job for job in result.jobs if job.end_seconds is not None]
    firsts = sorted(
        j.first_seconds - j.arrival.at_seconds for j in done if j.first_seconds is not None
    )
    paces = sorted(
        ((j.end_seconds or 0.0) - (j.first_seconds or 0.0)) / (j.n_output - 1)
        for j in done
        if j.n_output > 1
    )
    plan = best_plan(fleet.request, fleet.boxes[0], fleet.links)
    return {
        "boxes": len(fleet.boxes),
        "devices": sum(map(len, fleet.boxes)),
        "first box": None
        if plan is None
        else " | ".join(
            ", ".join(f"{s.unit.name} {s.first} to {s.last - 1}" for s in replica.stages)
            for replica in plan.replicas
        ),
        "requests": len(result.jobs),
        "unserved": result.n_unserved,
        "moved after failures": sum(job.n_moved > 0 for job in result.jobs),
        "seconds": result.seconds,
        "tokens_per_second": result.tokens_per_second,
        "ttft_p50_seconds": _part(firsts, 0.5),
        "ttft_p95_seconds": _part(firsts, 0.95),
        "token_p50_seconds": _part(paces, 0.5),
        "token_p95_seconds": _part(paces, 0.95),
    }


def _part(values: Sequence[float], part: float) -> float | None:
    return values[min(len(values) - 1, int(part * len(values)))] if values else None


def _shown(what: object) -> str:
    return (
        f"{what:.4g}"
        if isinstance(what, float) and what < 1000
        else f"{what:.0f}"
        if isinstance(what, float)
        else str(what)
    )


def _shape(model: _Model, path: Path) -> ModelShape:
    outer = _bytes(model.outer, path)
    layer = _bytes(model.layer, path)
    n_parameters = int(model.parameters / model.layers)
    return ModelShape(
        name=path.stem,
        layer_bytes=(layer,) * model.layers,
        layer_parameters=(n_parameters,) * model.layers,
        layer_kv_bytes=(model.kv_bytes,) * model.layers,
        embedding_bytes=outer,
        head_bytes=outer,
        head_parameters=int(outer * n_parameters / layer),
        d_model=model.width,
        context_trained=1 << 30,
    )


def _unit(device: _Device, path: Path) -> Unit:
    return Unit(
        name=device.name,
        devices=(device.name,),
        budget_bytes=_bytes(device.memory, path),
        bytes_per_second=device.gb_per_second * 1e9,
        flops=((1, device.tflops * 1e12),),
        layer_seconds=20e-6,
    )


def _bytes(text: str, path: Path) -> int:
    found = parse_size(text)
    if not isinstance(found, int) or found <= 0:
        raise InvalidRequest(f"{path}: {text!r} is no size; say 24GiB")
    return found


def parser() -> argparse.ArgumentParser:
    """Of what comes after `simulate`."""
    found = argparse.ArgumentParser(
        prog="hearthd simulate",
        description="Simulates a fleet under a trace of requests. Exit status 1: some stay without an answer.",
        epilog=_FLEET,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("fleet", metavar="FLEET", help="a file as below")
    found.add_argument("trace", metavar="TRACE", help="a file as below")
    found.add_argument("--seed", type=int, default=0, metavar="N", help="of the jitter")
    found.add_argument("--json", action="store_true", help="print one JSON object")
    return found
