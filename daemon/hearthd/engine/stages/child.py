"""The process of a stage: loads it, and does what the engine says until the engine closes its end."""

from __future__ import annotations

import gc
import logging
import socket
from contextlib import closing

import psutil

from hearth_backends import registry
from hearth_backends.base import Stage
from hearth_backends.errors import BackendError, Unsupported
from hearthd.engine.pipeline import finish
from hearthd.engine.stages.exchange import Exchange, PeerGone, take_regions
from hearthd.engine.stages.order import (
    Answer,
    AskPeak,
    Command,
    Compute,
    Export,
    Idle,
    LoadAdapter,
    Loaded,
    Progress,
    Restore,
    StageOrder,
)

log = logging.getLogger(__name__)

PROGRESS_STEP = 0.01
"""Progress is told when it has grown by this much."""


def serve_stage(connection: socket.socket) -> int:
    """Live for one stage; returns the exit status."""
    try:
        regions = take_regions(connection)
        exchange = Exchange(connection, regions.up, regions.down, regions.n_bytes)
        regions.close()
        with closing(exchange):
            return _serve(exchange)
    except PeerGone as gone:
        log.debug("the engine has gone: %s", gone)
        return 0


def _serve(exchange: Exchange) -> int:
    order = exchange.receive()
    try:
        stage = _load(order, exchange)
    except PeerGone:
        raise
    except Exception as error:  # the engine raises it where it asked for the stage
        exchange.send(Answer(error=_told(error)))
        return 1
    with closing(stage):
        n_bytes = psutil.Process().memory_info().rss
        exchange.send(Answer(Loaded(stage.caps, _state_kind(stage), n_bytes)))
        gc.collect()
        gc.freeze()  # what the load left stays
        while True:
            exchange.send(_answer(stage, exchange.receive()))


def _load(order: StageOrder, exchange: Exchange) -> Stage:
    told = 0.0

    def tell(fraction: float) -> None:
        nonlocal told
        if fraction - told >= PROGRESS_STEP:
            told = fraction
            exchange.send(Progress(fraction))

    backend = registry.backend(order.backend)
    return backend.load(order.model, order.spec, order.devices, order.leases, tell)


def _state_kind(stage: Stage) -> str | None:
    try:
        return stage.state_kind()
    except Unsupported:
        return None


def _answer(stage: Stage, command: Command) -> Answer:
    try:
        return Answer(_do(stage, command))
    except Exception as error:  # the engine raises it where it asked
        return Answer(error=_told(error))


def _do(stage: Stage, command: Command) -> object:
    match command:
        case Compute():
            return finish(stage, stage.submit(command.batch, command.x))
        case Export():
            return stage.export(command.placement, command.n_tokens)
        case Restore():
            return stage.restore(command.placement, command.blob, command.n_tokens)
        case LoadAdapter():
            stage.load_adapter(command.adapter, command.path, command.lease)
            return None
        case Idle():
            return stage.idle()
        case AskPeak():
            return stage.peak_bytes


def _told(error: Exception) -> BackendError:
    """An error as the engine is told it: it knows those of the contract only."""
    if isinstance(error, BackendError):
        return error
    log.error("a stage failed in a way that it should not", exc_info=error)
    return BackendError(f"{type(error).__name__}: {error}")
