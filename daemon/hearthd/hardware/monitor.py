"""DeviceMonitor: keeps the inventory true; the only writer of it, and never waits for a driver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

from hearthd.hardware.backend_view import (
    BackendsSilent,
    BackendView,
    ask_backends,
    probe_command,
)
from hearthd.hardware.device import Findings
from hearthd.hardware.host import Host
from hearthd.hardware.inventory import (
    DeviceEvent,
    Inventory,
    SourceReport,
    events_between,
    merge,
)
from hearthd.hardware.scout import Scout, SourceFailed, SourceSilent, scan_command
from hearthd.hardware.sources import Source, needed_sources
from hearthd.hardware.tree import Tree
from hearthd.hardware.uevents import kernel_socket, listening
from hearthd.tasks import tell_crash

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.3
"""One card makes many events."""
_HOST = "host"

Listener = Callable[[DeviceEvent], None]
MakeScout = Callable[[Source], Scout]


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """Where to look, and how often."""

    root: Path = Path("/")
    nvml_library: str | None = None  # None: by its usual name, where there is a sign of NVIDIA
    poll_seconds: float = 5.0
    probe: list[str] | None = field(default_factory=probe_command)  # None: ask no backends


class DeviceMonitor:
    """Has the host's processors from its first moment, the rest once `running` has found it."""

    def __init__(self, options: MonitorOptions, make_scout: MakeScout | None = None) -> None:
        """Reads some files of the host: belongs to the start."""
        self._options = options
        self._tree = Tree(options.root)
        self._host = Host(self._tree)
        self._make_scout = make_scout or self._scan_scout
        self._reports: dict[str, SourceReport] = {_HOST: SourceReport(self._host.look())}
        self._view = BackendView()
        self._view_problem: str | None = None
        self._inventory = merge(Inventory(), self._reports, {})
        self._listeners: list[Listener] = []
        self._wakes: list[asyncio.Event] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._looked: dict[str, asyncio.Event] = {}
        self._probe_wanted = asyncio.Event()
        self._probed = asyncio.Event()

    @property
    def inventory(self) -> Inventory:
        """What is known now; never waits."""
        return self._inventory

    @property
    def absent_backends(self) -> dict[str, str]:
        """Backends that cannot be used here, and why."""
        return self._view.absent

    @property
    def backend_versions(self) -> dict[str, str]:
        """Version by backend; empty as long as they were not asked."""
        return self._view.versions

    async def until_backends_known(self) -> None:
        """Wait until the backends were asked, with an answer or without."""
        await self._probed.wait()

    @property
    def backends_known(self) -> bool:
        """Whether the backends were asked yet."""
        return self._probed.is_set()

    def watch(self, listener: Listener) -> None:
        """Have a function called, in the loop's thread, with whatever changes from now on."""
        self._listeners.append(listener)

    def look_again(self) -> None:
        """Look at once, without waiting for the next turn."""
        for wake in self._wakes:
            wake.set()

    async def first_look(self, limit_seconds: float) -> None:
        """Wait until every source has been looked at once, but not for longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_seconds):
                await self._looked.setdefault(_HOST, asyncio.Event()).wait()
                for looked in list(self._looked.values()):
                    await looked.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep looking until the context is left."""
        self._start(_HOST, self._watch_host())
        if self._options.probe is not None:
            self._start("backends", self._watch_backends(self._options.probe))
        source = kernel_socket() if self._options.root == Path("/") else None
        try:
            with listening(source, self.look_again):
                yield
        finally:
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.clear()

    # --- sources -------------------------------------------------------------------------------

    async def _watch_host(self) -> None:
        """The processors, and which other sources there are."""
        wake = self._new_wake()
        looked = self._looked.setdefault(_HOST, asyncio.Event())
        while True:
            findings, needed = await asyncio.to_thread(self._look_at_host)
            for source in needed:
                if source not in self._tasks:
                    self._looked[source] = asyncio.Event()
                    self._start(source, self._watch_source(source))
            self._report(_HOST, SourceReport(findings))
            looked.set()
            await self._pause(wake)

    def _look_at_host(self) -> tuple[Findings, list[Source]]:
        return self._host.look(), needed_sources(self._tree, self._options.nvml_library)

    async def _watch_source(self, source: Source) -> None:
        """One that asks drivers, which may hang."""
        wake = self._new_wake()
        scout = self._make_scout(source)
        try:
            while True:
                self._report(source, await self._look_at(source, scout))
                self._looked[source].set()
                await self._pause(wake)
        finally:
            await scout.close()

    async def _look_at(self, source: Source, scout: Scout) -> SourceReport:
        try:
            return SourceReport(await scout.look())
        except SourceSilent:
            problem = f"{source}: the driver does not answer"
        except SourceFailed as error:
            problem = f"{source}: {error}"
        before = self._reports.get(source, SourceReport())
        return SourceReport(Findings(before.findings.devices), silent=True, problem=problem)

    async def _watch_backends(self, command: list[str]) -> None:
        """Asked at the start, and whenever devices or drivers are others than when they were asked."""
        await self.first_look(self._options.poll_seconds)
        while True:
            self._probe_wanted.clear()
            try:
                self._view = await ask_backends(command)
                self._view_problem = None
            except BackendsSilent as error:
                self._view_problem = f"backends: {error.reason}"
            self._probed.set()
            self._update()
            await self._probe_wanted.wait()
            await asyncio.sleep(SETTLE_SECONDS)

    def _scan_scout(self, source: Source) -> Scout:
        return Scout(scan_command(source, self._options.root, self._options.nvml_library))

    # --- bookkeeping ---------------------------------------------------------------------------

    def _report(self, source: str, report: SourceReport) -> None:
        if self._reports.get(source) != report:
            self._reports[source] = report
            self._update()

    def _update(self) -> None:
        before = self._inventory
        self._inventory = merge(before, self._reports, self._view.backends)
        if self._view_problem is not None:
            problems = (*self._inventory.problems, self._view_problem)
            self._inventory = Inventory(self._inventory.devices, problems)
        for problem in self._inventory.problems:
            if problem not in before.problems:
                log.warning("devices: %s", problem)
        if _what_backends_see(before) != _what_backends_see(self._inventory):
            self._probe_wanted.set()
        for event in events_between(before, self._inventory):
            self._tell(event)

    def _tell(self, event: DeviceEvent) -> None:
        device = event.device
        # A ready device that changed has got a backend or another figure: nobody waits for that.
        level = (
            logging.DEBUG if (event.kind, device.state) == ("changed", "ready") else logging.INFO
        )
        log.log(
            level,
            "device %s (%s) %s%s",
            device.name,
            device.description,
            event.kind,
            f": {device.problem}" if device.problem else "",
            extra={"device": device.name, "identity": device.identity},
        )
        for listener in self._listeners:
            listener(event)

    def _start(self, name: str, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work, name=f"devices: {name}")
        task.add_done_callback(tell_crash)
        self._tasks[name] = task

    def _new_wake(self) -> asyncio.Event:
        wake = asyncio.Event()
        self._wakes.append(wake)
        return wake

    async def _pause(self, wake: asyncio.Event) -> None:
        """Until the next turn, or until something happens."""
        wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.poll_seconds):
                await wake.wait()
                await asyncio.sleep(SETTLE_SECONDS)


def _what_backends_see(inventory: Inventory) -> set[tuple[str, str | None, str]]:
    """What makes it worth to ask them again."""
    return {
        (device.identity, device.driver, device.state)
        for device in inventory.devices
        if device.state != "unconfirmed"
    }
