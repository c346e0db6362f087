"""`hearthd plan MODEL`: where the model would run here, how fast, and on which figures that stands; the daemon up or down."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hearthd import log
from hearthd.config import Config, Flags, load
from hearthd.config.schema import ModelConfig
from hearthd.errors import InvalidRequest
from hearthd.exits import EXIT_FAILED
from hearthd.hardware.backend_view import PROBE_SECONDS, probe_command
from hearthd.hardware.checks import PairReport
from hearthd.hardware.device import Device
from hearthd.hardware.memory import memory_of, model_budget_bytes
from hearthd.hardware.profiles import Profiles
from hearthd.hardware.tree import Tree
from hearthd.machine import discover
from hearthd.placement.candidates import (
    Budgets,
    ModelFacts,
    changed,
    from_disk,
    links_of,
    shape_of,
    units_of,
)
from hearthd.placement.cost import Links, Unit
from hearthd.placement.planner import Outcome, plan
from hearthd.placement.report import json_of, text_of
from hearthd.placement.request import Policy, Request, groups_of

DISCOVERY_SECONDS = 30.0


class _Failure(msgspec.Struct, frozen=True):
    code: str
    message: str


class _Said(msgspec.Struct, frozen=True):
    """The probe's word on a model."""

    error: _Failure | None = None


class _Probe(msgspec.Struct, frozen=True):
    models: dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Box:
    """What is here."""

    devices: tuple[Device, ...]
    reports: list[PairReport]


def main(argv: Sequence[str]) -> int:
    """Do what comes after the word `plan`; returns the exit status, raises HearthError."""
    arguments = parser().parse_args(argv)
    log.set_up("error", "text")
    flags = Flags(config=arguments.config, state=arguments.state)
    config = load(flags, os.environ, os.getuid()).config
    request, outcome, notes = decide(arguments, config)
    sys.stdout.write((json_of if arguments.json else text_of)(request, outcome, notes))
    return EXIT_FAILED if outcome.plan is None else 0


def decide(arguments: argparse.Namespace, config: Config) -> tuple[Request, Outcome, list[str]]:
    """The request, its outcome, and what was left out; raises HearthError."""
    model = config.models.get(arguments.model, ModelConfig(path=_path(arguments.model)))
    facts = ask_engine(model.path)
    box = asyncio.run(look(config))
    host = memory_of(Tree(Path(config.hardware.root)))
    limits = config.memory
    budgets = Budgets(
        model_budget_bytes(host, budget=limits.budget, reserve=limits.reserve), limits.devices
    )
    units, left_out = units_of(box.devices, box.reports, facts, budgets)
    units = changed(units, facts, arguments.what_if)
    links = links_of(box.devices)
    request = Request(
        shape=shape_of(facts),
        context=arguments.context or model.context,
        concurrency=arguments.concurrency or model.concurrency,
        prompt_tokens=arguments.prompt_tokens,
        objective=arguments.objective,
        policy=Policy(tuple(arguments.require), tuple(arguments.prefer), tuple(arguments.avoid)),
    )
    if request.context is not None and request.context > request.shape.context_trained:
        raise InvalidRequest(
            f"{facts.name} was trained for {request.shape.context_trained} tokens, not for {request.context}"
        )
    units = [*units, *from_disk(units, box.reports), *_groups(arguments, units, links)]
    return request, plan(request, units, links), left_out


def ask_engine(path: str) -> ModelFacts:
    """What the engine's probe says of a model; raises InvalidRequest."""
    try:
        done = subprocess.run(
            [*probe_command(), path], capture_output=True, check=False, timeout=PROBE_SECONDS
        )
        raw = msgspec.json.decode(done.stdout, type=_Probe).models[path]
        said = msgspec.json.decode(raw, type=_Said)
        if said.error is not None:
            raise InvalidRequest(said.error.message, code=said.error.code)
        facts = msgspec.json.decode(raw, type=ModelFacts)
    except subprocess.TimeoutExpired:
        raise InvalidRequest(
            f"{path}: its header was not read within {PROBE_SECONDS:g} s"
        ) from None
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{path}: the probe gave no report: {error}") from error
    if facts.task != "generate":
        raise InvalidRequest(f"{path} is not for generating: it needs no plan")
    return facts


async def look(config: Config) -> Box:
    """The devices, and what was found out about them before."""
    monitor = discover(config).devices
    profiles = Profiles(Path(config.state))
    try:
        async with monitor.running():
            await monitor.first_look(DISCOVERY_SECONDS)
            await monitor.until_backends_known()
            return Box(tuple(monitor.inventory.present), await profiles.load())
    finally:
        await profiles.close()


def _groups(arguments: argparse.Namespace, units: Sequence[Unit], links: Links) -> list[Unit]:
    return groups_of(units, links) if arguments.groups else []


def _path(given: str) -> str:
    return "builtin:canary" if given == "canary" else given


def parser() -> argparse.ArgumentParser:
    """Of what comes after `plan`."""
    found = argparse.ArgumentParser(
        prog="hearthd plan",
        description="Says where a model would run here, and how fast. Exit status 1: it would not fit.",
    )
    found.add_argument("model", metavar="MODEL", help="a configured name, a file, or canary")
    found.add_argument("--context", type=_count, metavar="N", help="tokens of one sequence")
    found.add_argument("--concurrency", type=_count, metavar="N", help="sequences at once")
    found.add_argument(
        "--prompt-tokens", type=_count, metavar="N", default=512, help="whose first token is timed"
    )
    found.add_argument(
        "--objective", choices=("latency", "throughput", "memory"), default="latency",
        help="memory: as latency, and from the disk what has no room",
    )  # fmt: skip
    for word, does in (
        ("require", "use nothing else"),
        ("prefer", "use nothing else where it suffices"),
        ("avoid", "use only where nothing else suffices"),
    ):
        found.add_argument(
            f"--{word}", action="append", default=[], metavar="WORD",
            help=f"a device, kind or vendor: {does}; may be repeated",
        )  # fmt: skip
    found.add_argument(
        "--what-if", action="append", default=[], metavar="TEXT",
        help="'add cuda:24GiB@900GB/s' or 'remove cpu:0'; may be repeated",
    )  # fmt: skip
    found.add_argument(
        "--groups", action="store_true", help="let equal GPUs compute each layer together"
    )
    found.add_argument("--json", action="store_true", help="print one JSON object")
    found.add_argument("--config", metavar="FILE", help="the daemon's configuration")
    found.add_argument("--state", metavar="DIR", help="where the daemon keeps what it knows")
    return found


def _count(text: str) -> int:
    n = int(text)
    if n < 1:
        raise argparse.ArgumentTypeError(f"{n} is less than 1")
    return n
