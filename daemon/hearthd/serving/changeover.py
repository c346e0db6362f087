"""Changeover: puts engines in each other's place, one change of the configuration after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from hearthd.errors import HearthError
from hearthd.serving.deployments import Revision
from hearthd.serving.replica import Replica
from hearthd.serving.supervisor import Supervisor
from hearthd.tasks import tell_crash


class Changeover:
    """Those that go finish their requests and give their memory back before those that come may load."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._latest: asyncio.Task[None] | None = None
        self._going: set[Replica] = set()

    def begin(
        self,
        going: Sequence[Replica],
        coming: Sequence[tuple[str, Revision]],
        drain_seconds: float,
        error: Callable[[], HearthError] | None = None,
    ) -> None:
        """Returns at once; what comes is named as its deployment is.

        `error` is what requests end with that were not done in time (None: that the model was changed).
        """
        self._going.update(going)
        self._latest = asyncio.create_task(
            self._change(self._latest, going, coming, drain_seconds, error), name="change of models"
        )
        self._latest.add_done_callback(tell_crash)

    async def settled(self) -> None:
        """Wait until the latest change is done."""
        if self._latest is not None:
            await asyncio.gather(self._latest, return_exceptions=True)

    async def stop(self, error: Callable[[], HearthError]) -> None:
        """Give up what is not done; requests of engines that were to go end with `error`."""
        if self._latest is not None:
            self._latest.cancel()  # and, through it, all before it
            await asyncio.gather(self._latest, return_exceptions=True)
        for replica in self._going:
            replica.fail_all(error)

    async def _change(
        self,
        before: asyncio.Task[None] | None,
        going: Sequence[Replica],
        coming: Sequence[tuple[str, Revision]],
        drain_seconds: float,
        error: Callable[[], HearthError] | None,
    ) -> None:
        if before is not None:
            await before
        await asyncio.gather(*(self._supervisor.retire(old, drain_seconds, error) for old in going))
        self._going.difference_update(going)
        for name, revision in coming:
            self._supervisor.start(name, revision)
