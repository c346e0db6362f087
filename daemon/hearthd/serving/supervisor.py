"""Supervisor: the sole owner of engine processes; one task keeps each replica filled."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import psutil

from hearthd import wire
from hearthd.errors import EngineFailed, HearthError, ModelFailed
from hearthd.hardware.inventory import DeviceEvent
from hearthd.placement.ledger import Ledger
from hearthd.placement.placement import ANY_PROCESSOR, Placement
from hearthd.serving.course import Course
from hearthd.serving.deployments import Revision
from hearthd.serving.placer import Granted, Placer
from hearthd.serving.prefix_folders import PrefixFolders
from hearthd.serving.process import EngineCommand, EngineProcess, engine_command
from hearthd.serving.progress import Progress
from hearthd.serving.replica import Replica
from hearthd.serving.restart import GiveUp, RestartPolicy, after_end
from hearthd.serving.vitals import Patience
from hearthd.tasks import tell_crash

log = logging.getLogger(__name__)

MEMORY_SAMPLE_SECONDS = 5.0
LOST: Final = ("gone", "failed")
"""States of a device in which nothing on it can go on. One that is silent may be computing."""
PLACING_SECONDS = 300.0
"""In which it is found out where a model goes, at most: its file is read, and backends are asked."""


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """How engines are treated."""

    patience: Patience = field(default_factory=Patience)
    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    log_level: str = "info"
    command: EngineCommand = engine_command
    prefix_folders: PrefixFolders | None = None
    quarantined: Callable[[], dict[str, str]] | None = None  # "BACKEND DEVICE" to the reason
    cpus: Callable[[str], frozenset[int] | None] | None = None  # that a device's models keep to
    return_seconds: float = 60.0  # that an engine may finish in before it goes back to its device
    threads: Callable[[str], int] | None = None  # of a model on a device, where none are configured


class Supervisor:
    """Starts engines, replaces those that are lost, ends them all."""

    def __init__(
        self, ledger: Ledger, options: SupervisorOptions, placer: Placer | None = None
    ) -> None:
        """`placer` of None: models without a device of their own go to the first processor."""
        self.options = options
        """For engines that start from now on."""
        self._ledger = ledger
        self._placer = placer or Placer(ledger)
        self._keepers: dict[Replica, asyncio.Task[None]] = {}
        self._progress: dict[Replica, Progress] = {}  # of those that a keeper keeps
        self._processes: dict[Replica, EngineProcess] = {}
        self._sampler: asyncio.Task[None] | None = None
        self._stopping = False
        self._lost: set[str] = set()  # devices
        self._returning: set[asyncio.Task[None]] = set()
        self._devices_changed = asyncio.Event()  # set once, then another takes its place

    def start(self, name: str, revision: Revision) -> None:
        """Keep the replicas of a deployment's revision filled from now on; needs a loop."""
        for replica in revision.replicas:
            task = asyncio.create_task(self._keep(replica, revision), name=f"engine of {name}")
            task.add_done_callback(functools.partial(_tell_crash, replica))
            self._keepers[replica] = task
        if self._sampler is None:
            self._sampler = asyncio.create_task(self._sample_memory(), name="engine memory")
            self._sampler.add_done_callback(tell_crash)

    def stalled(self, now: float) -> list[str]:
        """Models whose replica nobody has looked after when it was due, though somebody should."""
        return [
            replica.model
            for replica, progress in self._progress.items()
            if progress.is_stalled(now)
        ]

    def on_device(self, event: DeviceEvent) -> None:
        """A device has come, gone, or changed: engines on one that is lost go elsewhere, and those that it drove away come back.

        What they had goes with them. Models without a place look for one again.
        """
        device = event.device
        if device.state in LOST:
            self._lost.add(device.name)
            for replica, process in self._processes.items():
                placement = replica.placement
                if placement is not None and device.name in placement.devices:
                    replica.displaced |= {device.name}
                    process.lose(f"was on {device.name}, which is {device.state}: {device.problem}")
        elif device.name in self._lost:
            self._lost.discard(device.name)
            for replica in self._processes:
                if device.name in replica.displaced:
                    task = asyncio.create_task(self._go_back(replica, device.name))
                    task.add_done_callback(tell_crash)
                    task.add_done_callback(self._returning.discard)
                    self._returning.add(task)
        self._devices_changed.set()
        self._devices_changed = asyncio.Event()

    async def _go_back(self, replica: Replica, device: str) -> None:
        """Once nothing runs, or it has waited long enough: what runs goes on there as well."""
        await replica.until_idle(self.options.return_seconds)
        process, placement = self._processes.get(replica), replica.placement
        if device in self._lost or process is None or placement is None:
            return
        replica.displaced -= {device}
        if device not in placement.devices:
            process.lose(f"goes back to {device}, which is there again")

    async def retire(
        self, replica: Replica, seconds: float, error: Callable[[], HearthError] | None = None
    ) -> None:
        """Let its requests finish within `seconds`, then end it, and those that are left with `error`."""
        keeper = self._keepers.get(replica)
        if keeper is None:
            replica.vacate()
            return
        if not await replica.until_idle(seconds):
            log.warning(
                "%d requests are cut off", replica.n_outstanding, extra={"model": replica.model}
            )
        replica.fail_all(error or _replaced)
        replica.retired = True
        process = self._processes.get(replica)
        if process is None:
            keeper.cancel()
        else:
            process.stop()
        await asyncio.gather(keeper, return_exceptions=True)
        self._keepers.pop(replica, None)
        replica.vacate()

    async def stop(self, *, at_once: bool = False) -> None:
        """End every engine: asked first and killed after `stop_seconds`, or killed at once. Idempotent."""
        self._stopping = True
        for replica, keeper in self._keepers.items():
            process = self._processes.get(replica)
            if process is None or at_once:
                keeper.cancel()  # it waits before the next start, or is not to be waited for
            else:
                process.stop()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)
        others = [*self._returning, *([] if self._sampler is None else [self._sampler])]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _keep(self, replica: Replica, revision: Revision) -> None:
        """Run engine after engine in one replica, until it is stopped or given up."""
        progress = self._progress[replica] = Progress()
        try:
            while not await self._keep_filled(replica, revision, progress):
                replica.try_again()
        finally:
            del self._progress[replica]
            self._placer.forget(replica)

    async def _keep_filled(self, replica: Replica, revision: Revision, progress: Progress) -> bool:
        """Returns whether nothing more is to come: False where there was no place, and devices have changed."""
        n_losses, ever_ready = 0, False
        course = Course()
        while not self._is_over(replica):
            changed = self._devices_changed
            progress.step(PLACING_SECONDS)
            try:
                granted = await course.place(self._placer, replica, revision)
            except HearthError as error:
                log.error("model failed: %s", error.message, extra={"model": replica.model})
                replica.give_up(error)
                progress.step(math.inf)
                await changed.wait()
                return False
            progress.step()
            process = self._process(replica, revision, granted, progress)
            replica.attach(process, granted.placement)
            self._processes[replica] = process
            try:
                end = await process.run()
            finally:
                del self._processes[replica]
            if self._is_over(replica):
                return True
            if course.goes_elsewhere(granted.placement, end):
                log.error("%s", course.setbacks[-1], extra={"model": replica.model})
                replica.setbacks = course.setbacks
                continue
            if end.is_displaced:
                log.warning("%s", end.message, extra={"model": replica.model})
                replica.lost(end)
                continue
            ever_ready = ever_ready or end.served_seconds is not None
            decision = after_end(
                end, self.options.restarts, n_losses=n_losses, ever_ready=ever_ready
            )
            if isinstance(decision, GiveUp):
                log.error("model failed: %s", decision.message, extra={"model": replica.model})
                replica.give_up(ModelFailed(decision.message, code=decision.code))
                return True
            log.error(
                "%s; the next one starts in %.1f s", end.message, decision.delay_seconds,
                extra={"model": replica.model},
            )  # fmt: skip
            n_losses = decision.n_losses
            replica.lost(end)
            progress.step(decision.delay_seconds)
            await asyncio.sleep(decision.delay_seconds)
        return True

    def _is_over(self, replica: Replica) -> bool:
        return self._stopping or replica.retired

    def _process(
        self, replica: Replica, revision: Revision, granted: Granted, progress: Progress
    ) -> EngineProcess:
        placement, folders = granted.placement, self.options.prefix_folders
        folder = None if folders is None else folders.of(replica.model)
        load = revision.load_frame(replica.model, placement, folder)
        load = self._with_hardware(load, placement.places[0].device)
        load, cpus = self._on_its_node(load, placement)
        return EngineProcess(
            load,
            replica,
            self._ledger,
            self.options.patience,
            log_level=self.options.log_level,
            command=self.options.command,
            cpus=cpus,
            progress=progress,
            held=granted.leases,
            devices=placement.device_by_name,
        )

    def _on_its_node(
        self, load: wire.Load, placement: Placement
    ) -> tuple[wire.Load, frozenset[int] | None]:
        """The frame of a whole model, and the processors of the memory node it is to stay on."""
        cpus_of = self.options.cpus
        cpus = None if cpus_of is None or placement.is_cut else cpus_of(placement.places[0].device)
        if cpus_of is None or cpus is None:
            return load, None
        draft = load.draft
        if draft is not None and cpus_of(draft.device) is not None:
            draft = msgspec.structs.replace(draft, device=ANY_PROCESSOR)
        return msgspec.structs.replace(load, device=ANY_PROCESSOR, draft=draft), cpus

    def _with_hardware(self, load: wire.Load, device: str) -> wire.Load:
        """The frame with the threads its devices have for it, and with what nothing is put on."""
        if self.options.quarantined is not None:
            load = msgspec.structs.replace(load, quarantined=self.options.quarantined())
        threads_for = self.options.threads
        if threads_for is None:
            return load
        draft = load.draft
        if draft is not None:
            own = draft.threads or threads_for(draft.device)
            draft = msgspec.structs.replace(draft, threads=own)
        return msgspec.structs.replace(
            load, threads=load.threads or threads_for(device), draft=draft
        )

    async def _sample_memory(self) -> None:
        """Keep the resident size of each engine up to date."""
        while True:
            await asyncio.sleep(MEMORY_SAMPLE_SECONDS)
            for replica in list(self._keepers):
                if replica.pid is not None:
                    replica.rss_bytes = await asyncio.to_thread(_resident_bytes, replica.pid)


def _resident_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _replaced() -> HearthError:
    return EngineFailed("the configuration of the model has changed; the answer is incomplete")


def _tell_crash(replica: Replica, task: asyncio.Task[None]) -> None:
    """Nobody waits for a replica that no task keeps."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    log.critical("%s: the task that keeps it has failed", task.get_name(), exc_info=error)
    replica.give_up(HearthError(f"hearthd could not keep its engine: {error}"))
