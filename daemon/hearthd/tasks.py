"""Tasks that nobody waits for: they end with what they belong to, and where one fails, that is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)


def tell_crash(task: asyncio.Task[None]) -> None:
    """Log what a task has failed with, by its name; to be told when it is done."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("%s: the task has failed", task.get_name(), exc_info=error)


@asynccontextmanager
async def going_on(work: Coroutine[object, object, None], name: str) -> AsyncIterator[None]:
    """Have work done meanwhile; what is not done at the end is cancelled."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(tell_crash)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
