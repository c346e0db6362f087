"""ServiceManager: keeps systemd told of how the daemon is, and feeds its watchdog while there is progress."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from types import TracebackType

from hearthd.serving.status import ModelStatus
from hearthd.systemd import Notifier
from hearthd.tasks import tell_crash

log = logging.getLogger(__name__)

TELL_SECONDS = 1.0
"""Between two looks at what there is to tell."""
FEEDS = 4
"""Within one period of the watchdog."""
EXTENSION_SECONDS = 30.0
"""What a start that goes on asks for, again and again."""


class Phase(Enum):
    """Of the daemon's life, as the manager sees it."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class ServiceManager:
    """One task of the event loop tells everything, so that a loop that stands still says nothing.

    It is also silent while the supervisor has not done what was due: whoever watches then ends a daemon that
    would no longer notice lost engines.
    """

    def __init__(
        self,
        notifier: Notifier,
        models: Callable[[], Iterable[ModelStatus]],
        stalled: Callable[[float], Sequence[str]],
    ) -> None:
        """`stalled(now)` names the models that the supervisor has left alone."""
        self._notifier = notifier
        self._models = models
        self._stalled = stalled
        self._phase = Phase.STARTING
        self._notes: list[str] = []
        self._told = ""
        self._silent = False
        self._task: asyncio.Task[None] | None = None
        watchdog = notifier.watchdog_seconds
        self._pause_seconds = TELL_SECONDS if watchdog is None else min(
            TELL_SECONDS, watchdog / FEEDS
        )  # fmt: skip

    async def __aenter__(self) -> ServiceManager:
        """Ask for patience from now on, until `ready`."""
        self._task = asyncio.create_task(self._keep_telling(), name="service manager")
        self._task.add_done_callback(tell_crash)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def ready(self) -> None:
        """The API listens."""
        self._phase = Phase.RUNNING
        self._notifier.ready(self._status())

    def reloading(self) -> None:
        """The configuration is being read again."""
        self._notifier.reloading("reading the configuration")

    def reloaded(self, notes: Sequence[str]) -> None:
        """It has been; `notes` stand in the status until the next time."""
        self._notes = list(notes)
        self._notifier.ready(self._status())

    def stopping(self, seconds: float) -> None:
        """The daemon goes down, within so many seconds."""
        self._phase = Phase.STOPPING
        self._notifier.extend(seconds)
        self._notifier.stopping("finishing what runs")

    async def _keep_telling(self) -> None:
        while True:
            self._notifier.tell_due()
            self._feed()
            if self._phase is Phase.STARTING:
                self._notifier.extend(EXTENSION_SECONDS)
            elif self._phase is Phase.RUNNING:
                told = self._told
                status = self._status()
                if status != told:
                    self._notifier.status(status)
            await asyncio.sleep(self._pause_seconds)

    def _feed(self) -> None:
        stalled = self._stalled(time.monotonic())
        if not stalled:
            self._silent = False
            self._notifier.alive()
        elif not self._silent:
            self._silent = True
            log.critical(
                "the supervisor stands still (engines of %s): the watchdog is not told that all is well",
                ", ".join(sorted(stalled)),
            )

    def _status(self) -> str:
        self._told = "; ".join([*self._notes, status_line(self._models())])
        return self._told


def status_line(models: Iterable[ModelStatus]) -> str:
    """ "loading qwen: 43 %; ready: 2 models", "ready: 1 model; failed: qwen (no such file)". Pure."""
    models = list(models)
    parts = []
    for model in models:
        if model.state == "loading":
            share = "" if model.progress is None else f" {model.progress * 100:.0f} %"
            phase = "" if model.phase in (None, "loading") else f" ({model.phase})"
            parts.append(f"loading {model.name}:{share}{phase}")
        elif model.state == "restarting":
            parts.append(f"restarting {model.name}")
    n_ready = sum(model.state == "ready" for model in models)
    if n_ready or not parts:
        parts.append(f"ready: {n_ready} model{'' if n_ready == 1 else 's'}")
    silent = [model.name for model in models if model.state == "ready" and not model.answers]
    if silent:
        parts.append(f"not answering: {', '.join(silent)}")
    failed = [f"{model.name} ({model.error})" for model in models if model.state == "failed"]
    if failed:
        parts.append(f"failed: {', '.join(failed)}")
    return "; ".join(parts)
