"""Supervisor: the sole owner of engine processes; one task keeps each replica filled."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import psutil

from hearthd import wire
from hearthd.errors import HearthError
from hearthd.placement.ledger import Ledger
from hearthd.serving.deployments import Deployment, Revision
from hearthd.serving.prefix_folders import PrefixFolders
from hearthd.serving.process import EngineCommand, EngineProcess, engine_command
from hearthd.serving.replica import Replica
from hearthd.serving.restart import GiveUp, RestartPolicy, after_end
from hearthd.serving.vitals import Patience

log = logging.getLogger(__name__)

MEMORY_SAMPLE_SECONDS = 5.0
ANY_PROCESSOR = "cpu:0"
"""What engines call those they may use."""


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
    threads: Callable[[str], int] | None = None  # of a model on a device, where none are configured


class Supervisor:
    """Starts engines, replaces those that are lost, ends them all."""

    def __init__(self, ledger: Ledger, options: SupervisorOptions) -> None:
        self._ledger = ledger
        self._options = options
        self._keepers: dict[Replica, asyncio.Task[None]] = {}
        self._processes: dict[Replica, EngineProcess] = {}
        self._sampler: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self, deployment: Deployment) -> None:
        """Keep the replicas of a deployment's current revision filled from now on; needs a loop."""
        revision = deployment.current
        for replica in revision.replicas:
            task = asyncio.create_task(
                self._keep(replica, revision), name=f"engine of {deployment.name}"
            )
            task.add_done_callback(functools.partial(_tell_crash, replica))
            self._keepers[replica] = task
        if self._sampler is None:
            self._sampler = asyncio.create_task(self._sample_memory(), name="engine memory")

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
        if self._sampler is not None:
            self._sampler.cancel()
            await asyncio.gather(self._sampler, return_exceptions=True)

    async def _keep(self, replica: Replica, revision: Revision) -> None:
        """Run engine after engine in one replica, until it is stopped or given up."""
        n_losses, ever_ready = 0, False
        while not self._stopping:
            process = self._process(replica, revision)
            replica.attach(process)
            self._processes[replica] = process
            try:
                end = await process.run()
            finally:
                del self._processes[replica]
            if self._stopping:
                return
            ever_ready = ever_ready or end.served_seconds is not None
            decision = after_end(
                end, self._options.restarts, n_losses=n_losses, ever_ready=ever_ready
            )
            if isinstance(decision, GiveUp):
                log.error("model failed: %s", decision.message, extra={"model": replica.model})
                replica.give_up(decision.code, decision.message)
                return
            log.error(
                "%s; the next one starts in %.1f s", end.message, decision.delay_seconds,
                extra={"model": replica.model},
            )  # fmt: skip
            n_losses = decision.n_losses
            replica.lost(end)
            await asyncio.sleep(decision.delay_seconds)

    def _process(self, replica: Replica, revision: Revision) -> EngineProcess:
        free_bytes = self._ledger.free_bytes(revision.config.devices[0])
        folders = self._options.prefix_folders
        folder = None if folders is None else folders.of(replica.model)
        load = self._with_hardware(revision.load_frame(replica.model, free_bytes, folder))
        load, cpus = self._on_its_node(load)
        return EngineProcess(
            load,
            replica,
            self._ledger,
            self._options.patience,
            log_level=self._options.log_level,
            command=self._options.command,
            cpus=cpus,
        )

    def _on_its_node(self, load: wire.Load) -> tuple[wire.Load, frozenset[int] | None]:
        """The frame of a whole model, and the processors of the memory node it is to stay on."""
        cpus_of = self._options.cpus
        cpus = None if cpus_of is None or load.stages else cpus_of(load.device)
        if cpus_of is None or cpus is None:
            return load, None
        draft = load.draft
        if draft is not None and cpus_of(draft.device) is not None:
            draft = msgspec.structs.replace(draft, device=ANY_PROCESSOR)
        return msgspec.structs.replace(load, device=ANY_PROCESSOR, draft=draft), cpus

    def _with_hardware(self, load: wire.Load) -> wire.Load:
        """The frame with the threads its devices have for it, and with what nothing is put on."""
        if self._options.quarantined is not None:
            load = msgspec.structs.replace(load, quarantined=self._options.quarantined())
        threads_for = self._options.threads
        if threads_for is None:
            return load
        draft = load.draft
        if draft is not None:
            own = draft.threads or threads_for(draft.device)
            draft = msgspec.structs.replace(draft, threads=own)
        return msgspec.structs.replace(
            load, threads=load.threads or threads_for(load.device), draft=draft
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


def _tell_crash(replica: Replica, task: asyncio.Task[None]) -> None:
    """Nobody waits for a replica that no task keeps."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    log.critical("%s: the task that keeps it has failed", task.get_name(), exc_info=error)
    replica.give_up(HearthError.code, f"hearthd could not keep its engine: {error}")
