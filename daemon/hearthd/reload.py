"""Reloader: reads the configuration again while the daemon runs; a good one counts, a bad one is refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

from hearthd import log as logs
from hearthd.access.action import Action
from hearthd.access.register import Register
from hearthd.access.tls import Tls
from hearthd.batch.service import Batches
from hearthd.cache.service import ResponseCache
from hearthd.config.changes import Changes, compare
from hearthd.config.schema import Config
from hearthd.errors import ConfigError, HearthError
from hearthd.service_manager import ServiceManager
from hearthd.serving.governor import Governor
from hearthd.serving.restart import RestartPolicy
from hearthd.serving.service import Serving
from hearthd.serving.supervisor import Supervisor
from hearthd.serving.vitals import Patience

log = logging.getLogger(__name__)


class Reloader:
    """Owns the configuration in force. One reload at a time; each is whole or not at all."""

    def __init__(
        self,
        config: Config,
        *,
        serving: Serving,
        supervisor: Supervisor,
        cache: ResponseCache,
        batches: Batches,
        register: Register,
        tls: Tls,
        governor: Governor,
    ) -> None:
        self.config = config
        self._started = config  # what stands until a restart is as it was then
        self._serving = serving
        self._supervisor = supervisor
        self._cache = cache
        self._batches = batches
        self._register = register
        self._tls = tls
        self._governor = governor

    async def reload(self, read: Callable[[], Config], manager: ServiceManager) -> None:
        """Read the configuration in a thread, and put it in force or say why not."""
        manager.reloading()
        await self._tls.reload()  # programs that renew certificates ask for no more
        try:
            new, changes = await asyncio.to_thread(self._read, read)
        except HearthError as error:
            log.error(
                "the new configuration is refused, the old one stays in force: %s", error.message
            )
            self._record(error.message, HTTPStatus.BAD_REQUEST)
            manager.reloaded([f"reload refused: {error.message}"])
            return
        self._apply(new)
        self._record(in_words(changes), HTTPStatus.OK)
        pending = compare(self._started, new).restart
        log.info("the configuration was read again: %s", in_words(changes), extra=_fields(changes))
        notes = []
        if pending:
            notes.append(f"counts after a restart: {', '.join(pending)}")
            log.warning("these count after a restart: %s", ", ".join(pending))
        manager.reloaded(notes)

    def _record(self, detail: str, status: int) -> None:
        """Whoever may send signals to the daemon is an operator, too."""
        self._register.note(
            Action(
                at=time.time(),
                who="local operator",
                origin="SIGHUP",
                action="reload",
                detail=detail,
                status=status,
                request_id="",
            )
        )

    def _read(self, read: Callable[[], Config]) -> tuple[Config, Changes]:
        """The new configuration and what is new in it; raises ConfigError. Blocks on the file system."""
        new = read()
        changes = compare(self.config, new)
        for name in (*changes.models.added, *changes.models.replaced):
            path = new.models[name].path
            if path.startswith("/") and not Path(path).exists():
                raise ConfigError(f"models.{name}.path: there is no {path}")
        return new, changes

    def _apply(self, new: Config) -> None:
        """Nothing in here may fail, or wait."""
        logs.set_up(new.log.level, new.log.format)
        engine = new.engine
        self._supervisor.options = replace(
            self._supervisor.options,
            patience=patience_of(new),
            restarts=RestartPolicy(engine.restart_limit, engine.restart_window_seconds),
            log_level=new.log.level,
        )
        self._governor.limits = new.power
        self._register.configure(new.keys, new.models)
        self._cache.configure({name: model.cache for name, model in new.models.items()})
        self._batches.configure(new.batch)
        self._serving.reconfigure(
            new.models,
            queue_limit=new.limits.queue_requests,
            call_seconds=new.limits.call_seconds,
            drain_seconds=new.stop.drain_seconds,
        )
        self.config = new


RELOADER = web.AppKey("reloader", Reloader)


def patience_of(config: Config) -> Patience:
    """How long engines may be silent."""
    engine = config.engine
    return Patience(
        heartbeat_seconds=engine.heartbeat_seconds,
        step_timeout_seconds=engine.step_timeout_seconds,
        load_timeout_seconds=engine.load_timeout_seconds,
        stop_seconds=engine.stop_seconds,
        probe_seconds=engine.probe_seconds,
    )


def in_words(changes: Changes) -> str:
    """ "models added: a; models removed: b, c; keys.kitchen", or "nothing has changed". Pure."""
    models = changes.models
    parts = [
        f"models {what}: {', '.join(names)}"
        for what, names in (
            ("added", models.added),
            ("removed", models.removed),
            ("loaded anew", models.replaced),
            ("adjusted", models.adjusted),
        )
        if names
    ]
    parts += _sections(changes.live)
    return "; ".join(parts) or "nothing that counts at once has changed"


def _sections(keys: Iterable[str]) -> list[str]:
    """Keys as they are, but of API keys only the name: what else they have need not be in the log."""
    return list(dict.fromkeys(_short(key) for key in keys))


def _short(key: str) -> str:
    parts = key.split(".")
    return ".".join(parts[:2]) if parts[0] == "keys" else key


def _fields(changes: Changes) -> dict[str, list[str]]:
    return {
        "models_added": list(changes.models.added),
        "models_removed": list(changes.models.removed),
        "models_loaded_anew": list(changes.models.replaced),
    }
