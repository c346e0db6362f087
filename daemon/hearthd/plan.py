"""`hearthd plan MODEL`: where the model would run here, how fast, and on which figures that stands; the daemon up or down."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hearthd import log
from hearthd.config import Config, Flags, load
from hearthd.config.schema import ModelConfig
from hearthd.errors import ConfigError, InvalidRequest
from hearthd.exits import EXIT_FAILED
from hearthd.hardware.checks import PairReport
from hearthd.hardware.device import Device
from hearthd.hardware.memory import memory_of, model_budget_bytes
from hearthd.hardware.profiles import Profiles
from hearthd.hardware.tree import Tree
from hearthd.leased import Leased, ask_daemon
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
from hearthd.placement.plan_file import written
from hearthd.placement.planner import Outcome, Plan, plan
from hearthd.placement.report import json_of, text_of
from hearthd.placement.request import Policy, Request, groups_of
from hearthd.serving.model_facts import ask_facts

DISCOVERY_SECONDS = 30.0


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
    if arguments.output is not None and outcome.plan is not None:
        write_plan(Path(arguments.output), outcome.plan, request.shape.name)
    sys.stdout.write((json_of if arguments.json else text_of)(request, outcome, notes))
    return EXIT_FAILED if outcome.plan is None else 0


def write_plan(path: Path, plan: Plan, model: str) -> None:
    """A file for models.NAME.plan; raises ConfigError where it cannot be written."""
    try:
        path.write_text(written(plan, model), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error


def decide(arguments: argparse.Namespace, config: Config) -> tuple[Request, Outcome, list[str]]:
    """The request, its outcome, and what was left out; raises HearthError."""
    model = config.models.get(arguments.model, ModelConfig(path=_path(arguments.model)))
    facts = ask_engine(model.path)
    leased = ask_daemon(config.socket)
    box = asyncio.run(look(config))
    host = memory_of(Tree(Path(config.hardware.root)))
    limits = config.memory
    budgets = Budgets(
        model_budget_bytes(host, budget=limits.budget, reserve=limits.reserve), limits.devices
    )
    if leased is not None:
        budgets = budgets_left(leased, box.devices, arguments.model, budgets)
    units, left_out = units_of(box.devices, box.reports, facts, budgets)
    if leased is not None:
        units = [replace(unit, held_bytes=_others(leased, unit, arguments.model)) for unit in units]
        left_out.append("what other models hold: the daemon runs, and its leases count")
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


def budgets_left(
    leased: Leased, devices: Sequence[Device], model: str, budgets: Budgets
) -> Budgets:
    """What a running daemon would give a model now, which gives back what it has itself. Pure."""
    free = {device.name: leased.free_bytes(device.name, model) for device in devices}
    known = {name: n_bytes for name, n_bytes in free.items() if n_bytes is not None}
    host = max((known[d.name] for d in devices if d.kind == "cpu" and d.name in known), default=0)
    return Budgets(host or budgets.host_bytes, {**budgets.device_bytes, **known})


def _others(leased: Leased, unit: Unit, model: str) -> dict[str, int]:
    held = leased.held(unit.name)
    return {holder: n_bytes for holder, n_bytes in held.items() if holder != model}


def ask_engine(path: str) -> ModelFacts:
    """What the engine's probe says of a model that generates; raises HearthError."""
    facts = asyncio.run(ask_facts(path))
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
    found.add_argument(
        "--output", "-o", metavar="FILE", help="write the plan there, for models.NAME.plan"
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
