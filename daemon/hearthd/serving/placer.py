"""Placer: the one owner that decides where each copy of a model goes, and holds the memory until its engine asks for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hearthd.config.schema import ModelConfig
from hearthd.errors import ConfigError, InsufficientMemory
from hearthd.hardware.checks import PairReport
from hearthd.hardware.device import Device
from hearthd.hardware.inventory import Inventory
from hearthd.placement.candidates import Budgets, ModelFacts
from hearthd.placement.encoders import encoder_placed
from hearthd.placement.ledger import HOST_POOL, Ledger, MemoryLease
from hearthd.placement.placement import (
    Pair,
    Placement,
    Surroundings,
    as_configured,
    candidates_of,
    check_available,
    check_names,
    check_words,
    copies_placed,
    kept_to_nodes,
    on_the_only,
    placed,
    with_own_names,
    with_workspaces,
)
from hearthd.placement.plan_file import parsed, placed_by
from hearthd.serving.deployments import Revision
from hearthd.serving.memory_watch import MemoryWatch
from hearthd.serving.model_facts import ask_facts
from hearthd.serving.replica import Replica

log = logging.getLogger(__name__)

DISCOVERY_SECONDS = 10.0
"""That a load waits at most for devices to be found."""

AskFacts = Callable[[str], Awaitable[ModelFacts]]


class DeviceWatch(Protocol):
    """Who knows the devices; `hardware.monitor.DeviceMonitor` is one."""

    @property
    def inventory(self) -> Inventory: ...
    async def first_look(self, limit_seconds: float) -> None: ...
    async def until_backends_known(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Granted:
    """Where a copy goes, and what the ledger holds for it until its engine asks."""

    placement: Placement
    leases: tuple[MemoryLease, ...] = ()


class Placer:
    """Every load asks it, the first as well as one after a loss; it plans anew each time, on what there is then."""

    def __init__(
        self,
        ledger: Ledger,
        devices: DeviceWatch | None = None,
        reports: Callable[[], Sequence[PairReport]] = tuple,
        *,
        ask: AskFacts = ask_facts,
        memory: MemoryWatch | None = None,
    ) -> None:
        """`devices` of None: models without a device of their own go to the first processor.

        `memory` looks what others have taken before anything is placed.
        """
        self._ledger = ledger
        self._devices = devices
        self._reports = reports
        self._ask = ask
        self._memory = memory
        self._facts: dict[str, ModelFacts] = {}
        self._turn = asyncio.Lock()  # a plan counts on what is free until its leases are there
        self._in_force: dict[Replica, Placement] = {}
        self._meant: dict[
            Replica, Placement
        ] = {}  # where a copy goes, as planned with its siblings

    async def place(
        self, replica: Replica, revision: Revision, barred: frozenset[Pair] = frozenset()
    ) -> Granted:
        """Where a copy goes now; `barred` pairs of device and backend have failed to load it.

        Raises InsufficientMemory, with the arithmetic and what would help; UnknownDevice, with those there are;
        DeviceUnavailable, where what must be used is missing; and what is wrong with the file.
        """
        config = revision.config
        await self._look_at_memory()
        configured = as_configured(config)
        if self._devices is None:
            return Granted(self._sized(configured or _DEFAULT))
        if configured is not None:
            if not configured.devices <= {d.name for d in self._present}:
                await self._devices.first_look(DISCOVERY_SECONDS)
            check_available(configured.devices, self._devices.inventory.devices)
            check_names(configured, self._present)
            if configured.is_cut:
                places = kept_to_nodes(configured.places, self._present)
                configured = replace(configured, places=tuple(places))
            return Granted(self._sized(configured))
        await self._devices.first_look(DISCOVERY_SECONDS)
        if config.plan is not None:
            return await self._as_filed(replica, config, config.plan)
        check_available(config.require, self._devices.inventory.devices)
        check_words(config, self._devices.inventory.devices)
        only = on_the_only(config, self._present)
        if only is not None:
            return Granted(self._sized(only))
        facts = await self._facts_of(config.path)
        await self._devices.until_backends_known()
        async with self._turn:
            placement = await self._planned(replica, revision, facts, barred)
            return Granted(placement, self._hold(replica.model, placement))

    def take(self, replica: Replica, placement: Placement) -> None:
        """A copy is about to load there; its siblings keep off those devices."""
        self._in_force[replica] = placement

    def devices_of(self, replica: Replica) -> frozenset[str]:
        """What a copy uses now."""
        placement = self._in_force.get(replica)
        return frozenset() if placement is None else placement.devices

    def forget(self, replica: Replica) -> None:
        """The copy is gone."""
        self._in_force.pop(replica, None)
        self._meant.pop(replica, None)

    async def _as_filed(self, replica: Replica, config: ModelConfig, path: str) -> Granted:
        """As a plan's file says, within what is free; raises ConfigError, InsufficientMemory with its line."""
        assert self._devices is not None
        try:
            text = await asyncio.to_thread(Path(path).read_text, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"models.{replica.model}.plan: {error}") from error
        file = parsed(text, path)
        facts = await self._facts_of(config.path)
        await self._devices.until_backends_known()
        async with self._turn:
            around = self._around()
            units, _ = candidates_of(config, facts, around)
            units = with_workspaces(units, self._ledger.corrections.workspaces(config.path))
            placement = placed_by(file, config, facts, units)
            places = with_own_names(placement.places, around.devices)
            placement = replace(placement, places=tuple(places))
            return Granted(placement, self._hold(replica.model, placement))

    # --- parts ---------------------------------------------------------------------------------

    @property
    def _present(self) -> tuple[Device, ...]:
        return () if self._devices is None else tuple(self._devices.inventory.present)

    async def _look_at_memory(self) -> None:
        if self._memory is not None:
            on_host = [
                replica.pid
                for replica, placement in self._in_force.items()
                if replica.pid is not None and any(d.startswith("cpu") for d in placement.devices)
            ]
            await self._memory.look(self._present, on_host)

    async def _planned(
        self,
        replica: Replica,
        revision: Revision,
        facts: ModelFacts,
        barred: frozenset[Pair],
    ) -> Placement:
        config, around = revision.config, self._around()
        siblings = [other for other in revision.replicas if other is not replica]
        taken = frozenset(
            name for other in siblings if other in self._in_force
            for name in self._in_force[other].devices
        )  # fmt: skip
        if (config.task or facts.task) != "generate":
            return encoder_placed(config, facts, around, barred=barred, taken=taken)
        aside_bytes = await asyncio.to_thread(_bytes_of, _beside(config))
        units, _ = candidates_of(
            config, facts, around, barred=barred, taken=taken, aside_bytes=aside_bytes
        )
        units = with_workspaces(units, self._ledger.corrections.workspaces(config.path))
        if siblings and not taken and not barred:
            together = await asyncio.to_thread(copies_placed, config, facts, around, units)
            self._meant.update(zip(revision.replicas, together, strict=False))
        meant = self._meant.pop(replica, None)
        if meant is not None and not barred:
            return meant
        if siblings and not units:
            raise InsufficientMemory(
                f"{facts.name}: there is no device for another copy; models.NAME.replicas = {config.replicas}"
            )
        return await asyncio.to_thread(placed, config, facts, around, units)

    def _around(self) -> Surroundings:
        devices = self._present
        free = {device.name: self._ledger.free_bytes(device.name) for device in devices}
        return Surroundings(
            devices=devices,
            reports=self._reports(),
            budgets=Budgets(
                self._ledger.free_bytes(HOST_POOL) or 0,
                {name: n_bytes for name, n_bytes in free.items() if n_bytes is not None},
            ),
            held={device.name: self._ledger.holders(device.name) for device in devices},
        )

    def _sized(self, placement: Placement) -> Placement:
        """With what is free on its devices now, for the engine to size what nobody asked for."""
        names = [name for place in placement.places for name in place.devices]
        free = self._ledger.free_on_all(names)
        first, *rest = placement.places
        return replace(placement, places=(replace(first, budget_bytes=free), *rest))

    def _hold(self, holder: str, placement: Placement) -> tuple[MemoryLease, ...]:
        """What is planned is not promised to others meanwhile; raises InsufficientMemory."""
        leases: list[MemoryLease] = []
        try:
            for _, need in placement.needs:
                leases.append(self._ledger.grant(holder, need))
        except InsufficientMemory:
            for lease in leases:
                self._ledger.release(lease)
            raise
        return tuple(leases)

    async def _facts_of(self, path: str) -> ModelFacts:
        known = self._facts.get(path)
        if known is None:
            known = self._facts[path] = await self._ask(path)
        return known


def _beside(config: ModelConfig) -> list[str]:
    """Files that go along with a model."""
    draft = [] if config.draft is None else [config.draft]
    return [*draft, *(adapter.path for adapter in config.lora)]


def _bytes_of(paths: Sequence[str]) -> int:
    """Of those that are files."""
    return sum(path.stat().st_size for path in map(Path, paths) if path.is_file())


_DEFAULT = as_configured(ModelConfig(devices=("cpu:0",))) or Placement("only", ())
