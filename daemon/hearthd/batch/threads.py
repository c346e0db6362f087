"""Work in threads that is waited for, whoever wants to leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `asyncio.to_thread` does, but a caller that is cancelled leaves after the work has ended."""
    task = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody waits for it any more
        raise


@asynccontextmanager
async def opened(open_it: Callable[[], T], close_it: Callable[[T], None]) -> AsyncIterator[T]:
    """What is opened in a thread, and closed in one, whenever the caller is cancelled."""
    task = asyncio.create_task(asyncio.to_thread(open_it))
    try:
        resource = await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if task.exception() is None:
            await in_thread(close_it, task.result())
        raise
    try:
        yield resource
    finally:
        await in_thread(close_it, resource)
