"""Life: the daemon from sockets that listen to its last word: serve, reload, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine

from aiohttp import web

from hearthd import signals
from hearthd.api import connection, keys, top
from hearthd.api.loopback import Loopback
from hearthd.app import build_app, make_announcer
from hearthd.config.parse import split_address
from hearthd.config.schema import Config
from hearthd.listeners import BACKLOG, Listeners
from hearthd.machine import Machine
from hearthd.reload import RELOADER
from hearthd.service_manager import ServiceManager
from hearthd.systemd import Notifier
from hearthd.tasks import going_on

log = logging.getLogger(__name__)

HANDLERS_END_SECONDS = 2.0
"""For handlers to write their last words, once nothing is left to wait for."""
STOP_MARGIN_SECONDS = 10.0
"""For what is to be done after engines have ended, before the service manager grows impatient."""


async def serve(
    config: Config,
    listeners: Listeners,
    machine: Machine,
    notifier: Notifier,
    read: Callable[[], Config],
) -> None:
    """Serve on sockets that listen already, until a signal; then drain and end everything.

    `read` reads the configuration again, when the daemon is told to reload it; raises ConfigError.
    """
    app = build_app(config, machine)
    serving, reloader = app[keys.SERVING], app[RELOADER]
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,  # a client that goes frees its slot at once
        shutdown_timeout=HANDLERS_END_SECONDS,
    )
    async with ServiceManager(notifier, serving.models, serving.stalled) as manager:
        with signals.heard() as told:
            app[top.ANNOUNCER] = make_announcer(app, config, split_address(listeners.address)[1])
            try:
                await runner.setup()
                servers = [
                    await connection.listen(
                        runner,
                        listener,
                        app[keys.METRICS],
                        backlog=BACKLOG,
                        tls=app[keys.TLS].context,
                    )
                    for listener in (listeners.tcp, listeners.unix)
                ]
                app[keys.BATCHES].begin(Loopback(connection.acceptor(runner, app[keys.METRICS])))
                _tell_listening(config, listeners)
                gc.collect()
                gc.freeze()  # what the start left stays; collections while serving need not look at it
                manager.ready()
                async with (
                    app[top.ANNOUNCER].announcing(),
                    going_on(
                        _each_time(told.reload, lambda: reloader.reload(read, manager)), "reloading"
                    ),
                ):
                    await told.stop.wait()
                drain_seconds = reloader.config.stop.drain_seconds
                manager.stopping(
                    drain_seconds + reloader.config.engine.stop_seconds + STOP_MARGIN_SECONDS
                )
                log.info("stopping: %g s for what runs", drain_seconds)
                for server in servers:
                    server.close()
                app[keys.BATCHES].rest()
                await _first_of(serving.drain(drain_seconds), told.hurry)
                await serving.stop(at_once=told.hurry.is_set())
            finally:
                await runner.cleanup()
    log.info("stopped")


def _tell_listening(config: Config, listeners: Listeners) -> None:
    address = {"listen": listeners.address, "socket": str(listeners.path)}
    scheme = "https" if config.tls.on else "http"
    log.info("listening on %s://%s and %s", scheme, *address.values(), extra=address)
    if config.insecure:
        log.warning("insecure = true: no key is needed on %s", listeners.address)


async def _each_time(
    told: asyncio.Event, work: Callable[[], Coroutine[object, object, None]]
) -> None:
    """Do the work each time the event is set; not twice at once."""
    while True:
        await told.wait()
        told.clear()
        await work()


async def _first_of(work: Coroutine[object, object, object], event: asyncio.Event) -> None:
    """Wait for the work, but no longer than for the event."""
    tasks = [asyncio.create_task(work), asyncio.create_task(event.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
