"""Housekeeping: files, and batches that are over, go when they have been kept long enough; some at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from hearthd.batch import stored
from hearthd.batch.files import Files
from hearthd.config.schema import BatchConfig
from hearthd.store.database import Database
from hearthd.store.errors import StoreError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 600.0
"""Between two looks for what has been kept long enough."""
_AT_ONCE: Final = 200
"""Of a transaction; what others write comes between two."""


class Housekeeping:
    """Belongs to the event loop; one task has it going."""

    def __init__(
        self,
        files: Files,
        database: Database,
        config: Callable[[], BatchConfig],
        clock: Callable[[], float],
    ) -> None:
        """`clock` is unix time."""
        self._files = files
        self._database = database
        self._config = config
        self._clock = clock

    async def keep_going(self) -> None:
        """Look now and from time to time; what goes wrong is told, and tried again."""
        while True:
            try:
                await self.look()
            except (StoreError, OSError) as error:
                log.error("old files and batches cannot be taken away: %s", error)
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Take away what has been kept long enough; raises StoreError, OSError.

        The record of a batch stays as long as a file of its answers, and at least `keep_seconds`.
        """
        n_files = await self._files.expire(_AT_ONCE)
        n_batches = await self._forget_batches()
        if n_files or n_batches:
            log.info(
                "kept long enough and gone: %d files, %d batches", n_files, n_batches,
                extra={"n_files": n_files, "n_batches": n_batches},
            )  # fmt: skip

    async def _forget_batches(self) -> int:
        n_gone = 0
        while True:
            ended_by = self._clock() - self._config().keep_seconds
            drop = partial(stored.drop_old_batches, ended_by=ended_by, most=_AT_ONCE)
            if not (n := await self._database.write(drop)):
                return n_gone
            n_gone += n
