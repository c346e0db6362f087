"""App: builds every part from a Config and hangs it on the web application, whose start and end are theirs."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiohttp import web

from hearthd import __version__, wire
from hearthd.access.keyring import Keyring
from hearthd.access.register import Register
from hearthd.access.tls import Tls
from hearthd.api import keys, routes, top
from hearthd.batch.counts import BatchCollector
from hearthd.batch.owners import Owners
from hearthd.batch.service import Batches
from hearthd.cache.counts import CacheCollector, Counts
from hearthd.cache.exact import ExactCache
from hearthd.cache.policy import Policy
from hearthd.cache.service import ResponseCache
from hearthd.config.parse import is_loopback, split_address
from hearthd.config.schema import Config
from hearthd.hardware.checkup import Checkup
from hearthd.hardware.host import cpus_to_keep_to, threads_for
from hearthd.hardware.memory import model_budget_bytes
from hearthd.hardware.monitor import DeviceMonitor
from hearthd.hardware.tree import Tree
from hearthd.lan.announcer import Announcer
from hearthd.lan.card import Card
from hearthd.lan.identity import box_id
from hearthd.lan.interfaces import choose, look
from hearthd.machine import Machine
from hearthd.placement.budgets import DeviceBudgets
from hearthd.placement.ledger import HOST_POOL, Ledger, format_bytes
from hearthd.placement.measured import MeasuredFile
from hearthd.reload import RELOADER, Reloader, patience_of
from hearthd.serving.governor import Governor
from hearthd.serving.memory_watch import MemoryWatch
from hearthd.serving.placer import Placer
from hearthd.serving.prefix_folders import PrefixFolders
from hearthd.serving.restart import RestartPolicy
from hearthd.serving.service import Serving
from hearthd.serving.supervisor import Supervisor, SupervisorOptions
from hearthd.tasks import going_on
from hearthd.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

DISCOVERY_SECONDS = 10.0
"""That models wait at the start for devices they name."""


def build_app(config: Config, machine: Machine) -> web.Application:
    """The web application with all its parts; starts nothing. Needs a running loop."""
    metrics = Metrics()
    devices = machine.devices
    checkup = Checkup(devices, Path(config.state))
    ledger = _ledger(config, machine)
    memory = _memory_watch(config, ledger)
    placer = Placer(ledger, devices, lambda: checkup.reports, memory=memory)
    supervisor = Supervisor(ledger, _supervisor_options(config, devices, checkup), placer)
    devices.watch(supervisor.on_device)
    serving = Serving(
        config.models,
        supervisor,
        metrics,
        queue_limit=config.limits.queue_requests,
        call_seconds=config.limits.call_seconds,
    )
    metrics.watch(serving.models)
    metrics.watch_keys(serving.standings)
    metrics.watch_devices(lambda: devices.inventory.devices)
    app = web.Application(client_max_size=config.limits.max_body_bytes)
    app[keys.SERVING] = serving
    app[top.LEDGER] = ledger
    app[top.STATE_FOLDER] = Path(config.state)
    app[keys.METRICS] = metrics
    app[keys.DEVICES] = devices
    app[keys.CHECKUP] = checkup
    keyring = Keyring(config.keys)
    app[keys.CACHE] = _cache(config, serving, metrics, keyring)
    app[keys.KEYRING] = keyring
    app[keys.BATCHES] = _make_batches(config, serving, metrics, keyring)
    app[keys.REGISTER] = Register(Path(config.state), keyring, models=config.models)
    app[keys.GATE] = keys.Gate(trust_loopback=config.trust_loopback)
    app[keys.TLS] = Tls(config.tls, Path(config.state), split_address(config.listen)[0])
    app[keys.OPTIONS] = keys.ApiOptions(
        max_body_bytes=config.limits.max_body_bytes, insecure=config.insecure
    )
    app[top.GOVERNOR] = Governor(config.power, serving, lambda: devices.inventory.present)
    app[RELOADER] = Reloader(
        config,
        serving=serving,
        supervisor=supervisor,
        cache=app[keys.CACHE],
        batches=app[keys.BATCHES],
        register=app[keys.REGISTER],
        tls=app[keys.TLS],
        governor=app[top.GOVERNOR],
    )
    routes.setup(app)
    app.cleanup_ctx.append(_keys)
    app.cleanup_ctx.append(_tls)
    app.cleanup_ctx.append(_watching(config, devices))
    app.cleanup_ctx.append(_checking(config))
    app.cleanup_ctx.append(_measuring(config, ledger))
    app.cleanup_ctx.append(_engines(config))
    app.cleanup_ctx.append(_answers)
    app.cleanup_ctx.append(_batches)
    return app


def make_announcer(app: web.Application, config: Config, port: int) -> Announcer:
    """What tells the network of the box: which models answer, whether a key is needed, and the certificate."""
    host, identity = split_address(config.listen)[0], box_id(Path(config.state))
    name = config.lan.name or socket.gethostname().partition(".")[0]

    def card() -> Card | None:
        needs_key = not config.insecure
        if not config.lan.enabled or is_loopback(host) or (needs_key and not app[keys.KEYRING]):
            return None
        models = tuple(m.name for m in app[keys.SERVING].models() if m.state == "ready")
        return Card(name, identity, port, __version__, models, needs_key, app[keys.TLS].fingerprint)

    return Announcer(card, lambda: choose(look(), config.lan.interfaces, host))


def _ledger(config: Config, machine: Machine) -> Ledger:
    """With a budget for the host's memory, and one for each other device once it is found."""
    limits = config.memory
    budget = model_budget_bytes(machine.memory, budget=limits.budget, reserve=limits.reserve)
    log.info("%s of memory for models", format_bytes(budget), extra={"budget_bytes": budget})
    ledger = Ledger({HOST_POOL: budget, **limits.devices})
    budgets = DeviceBudgets(ledger, limits.devices)
    budgets.take_in(machine.devices.inventory.devices)
    machine.devices.watch(budgets.on_event)
    return ledger


def _memory_watch(config: Config, ledger: Ledger) -> MemoryWatch:
    limits = config.memory
    trusted = [*limits.devices, *([] if limits.budget is None else [HOST_POOL])]
    tree = Tree(Path(config.hardware.root))
    return MemoryWatch(ledger, tree, reserve=limits.reserve, trusted=trusted)


def _supervisor_options(
    config: Config, devices: DeviceMonitor, checkup: Checkup
) -> SupervisorOptions:
    engine = config.engine
    return SupervisorOptions(
        patience=patience_of(config),
        restarts=RestartPolicy(engine.restart_limit, engine.restart_window_seconds),
        log_level=config.log.level,
        prefix_folders=_prefix_folders(config),
        cpus=lambda name: cpus_to_keep_to(devices.inventory.present, name),
        threads=lambda name: threads_for(devices.inventory.present, name),
        quarantined=checkup.quarantined,
    )


def _checking(config: Config) -> Callable[[web.Application], AsyncIterator[None]]:
    """What is in quarantine is known before engines start; devices are tested when nobody works."""

    async def checking(app: web.Application) -> AsyncIterator[None]:
        checkup, serving = app[keys.CHECKUP], app[keys.SERVING]
        await checkup.open()
        if config.hardware.checkup:
            work = checkup.keep_going(lambda: _is_idle(serving))
            async with going_on(work, "checkup of devices"):
                yield
        else:
            yield
        await checkup.close()

    return checking


def _is_idle(serving: Serving) -> bool:
    """Whether no request is under way and no model loads."""
    return all(
        model.state in ("ready", "failed", "drained", "unloaded")
        and not model.n_running
        and not model.n_waiting
        for model in serving.models()
    )


def _watching(
    config: Config, devices: DeviceMonitor
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Devices are looked for as long as the app lives; before its engines start where they need them."""
    named = {
        device
        for model in config.models.values()
        for place in (*(model.devices or ()), *(stage.device for stage in model.stages))
        for device in wire.device_names(place)
    }

    async def watching(_app: web.Application) -> AsyncIterator[None]:
        async with devices.running():
            if any(devices.inventory.get(name) is None for name in named):
                await devices.first_look(DISCOVERY_SECONDS)
            yield

    return watching


def _measuring(config: Config, ledger: Ledger) -> Callable[[web.Application], AsyncIterator[None]]:
    """What loads took before is known before engines start."""

    async def measuring(_app: web.Application) -> AsyncIterator[None]:
        kept = MeasuredFile(Path(config.state), ledger.corrections)
        await kept.open()
        yield
        await kept.close()

    return measuring


def _engines(config: Config) -> Callable[[web.Application], AsyncIterator[None]]:
    """Engines start with the app and are gone with it; so are the prefixes of models that left."""
    kept = [name for name, model in config.models.items() if model.prefix_disk]

    async def engines(app: web.Application) -> AsyncIterator[None]:
        await asyncio.to_thread(_prefix_folders(config).keep_only, kept)
        app[keys.SERVING].start()
        async with going_on(app[top.GOVERNOR].keep_going(), "governor"):
            yield
        await app[keys.SERVING].stop()

    return engines


async def _keys(app: web.Application) -> AsyncIterator[None]:
    """What keys open is known before the first request."""
    await app[keys.REGISTER].open()
    yield
    await app[keys.REGISTER].close()


async def _tls(app: web.Application) -> AsyncIterator[None]:
    """The certificate is there before anybody connects, and a new one is taken while the app lives."""
    await app[keys.TLS].open()
    async with app[keys.TLS].watching():
        yield


def _cache(config: Config, serving: Serving, metrics: Metrics, keyring: Keyring) -> ResponseCache:
    if not config.cache.enabled:
        return ResponseCache.off(serving)
    counts = Counts()
    exact = ExactCache(
        Path(config.state) / "cache.db",
        counts,
        budget_bytes=config.cache.budget,
        entry_bytes=config.cache.entry,
        ttl_seconds={name: model.cache.ttl_seconds for name, model in config.models.items()},
    )
    metrics.add(CacheCollector(counts, lambda: exact.top))
    models = {name: model.cache for name, model in config.models.items()}
    return ResponseCache(serving, Policy(config.cache, models, keyring.configs), exact, counts)


async def _answers(app: web.Application) -> AsyncIterator[None]:
    """Kept answers are there while the app is, or soon after: nobody waits for their file to open."""
    opening = asyncio.create_task(app[keys.CACHE].open(), name="cache-opens")
    yield
    await opening
    await app[keys.CACHE].close()


def _make_batches(config: Config, serving: Serving, metrics: Metrics, keyring: Keyring) -> Batches:
    batches = Batches(
        Path(config.state) / "batches",
        serving,
        Owners(keyring),
        config.batch,
        most_line_bytes=config.limits.max_body_bytes,
    )
    metrics.add(BatchCollector(batches.counts, batches.now))
    return batches


async def _batches(app: web.Application) -> AsyncIterator[None]:
    """Like kept answers: nobody waits for their file to open."""
    opening = asyncio.create_task(app[keys.BATCHES].open(), name="batches-open")
    yield
    await opening
    await app[keys.BATCHES].close()


def _prefix_folders(config: Config) -> PrefixFolders:
    return PrefixFolders(Path(config.state) / "prefixes")
