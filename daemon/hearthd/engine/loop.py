"""EngineLoop: the threads of an engine process: one computes, one takes in frames, one gives signs of life."""

from __future__ import annotations

import logging
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from hearthd import wire
from hearthd.engine.link import EngineLink, HearthdGone
from hearthd.engine.refused import Refused

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0

Command = TypeVar("Command")
"""What the intake thread has for the computing one, besides what hearthd orders."""

_Order = wire.Cancel | wire.Hold | wire.Probe | wire.Stop | HearthdGone


class Computing(Protocol):
    """What the loop has to know of what computes."""

    @property
    def has_work(self) -> bool: ...

    def take_probed(self) -> list[int]:
        """Numbers of the probes that have their answer now."""


class EngineLoop(ABC, Generic[Command]):
    """What every engine's loop does; what it computes, and what frames mean to it, is its own."""

    def __init__(self, link: EngineLink, computing: Computing) -> None:
        self._link = link
        self._computing = computing
        self._inbox: queue.SimpleQueue[Command | _Order] = queue.SimpleQueue()
        self._stop_by: float | None = None  # once asked to stop
        self._step_began: float | None = None
        self._over = threading.Event()

    @abstractmethod
    def _take(self, frame: wire.ToEngine) -> None:
        """Do what a frame asks for, in the intake thread; may raise Refused."""

    @abstractmethod
    def _sign_of_life(self) -> wire.Beat:
        """How the engine is, asked in the beat thread."""

    # --- the computing thread ------------------------------------------------------------------

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """The other threads are there."""
        for target, name in ((self._take_in, "intake"), (self._beat, "beat")):
            threading.Thread(target=target, name=name, daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _goes_on(self) -> bool:
        """Whether to compute, or wait for something to compute: until hearthd's deadline once it said stop."""
        if self._stop_by is None:
            return True
        return self._computing.has_work and time.monotonic() < self._stop_by

    @contextmanager
    def _stepping(self) -> Iterator[None]:
        """A step, whose age is told meanwhile; one that fails for good has no end."""
        self._step_began = time.monotonic()
        yield
        self._step_began = None

    def _tell_probed(self) -> None:
        """Hearthd hears which probes the last step has answered."""
        for number in self._computing.take_probed():
            self._link.send(wire.Probed(number))

    def _step_age_seconds(self) -> float | None:
        began = self._step_began
        return None if began is None else time.monotonic() - began

    def _refuse_new(self, rid: int) -> None:
        message = "the engine is stopping and takes nothing new"
        self._link.send(wire.Reject(rid, 503, "shutting_down", message))

    # --- the intake thread ---------------------------------------------------------------------

    def _take_in(self) -> None:
        try:
            while True:
                self._receive(self._link.receive())
        except HearthdGone as gone:
            self._inbox.put(gone)
        except Exception as error:  # an engine that hears nothing any more must not go on
            log.exception("what hearthd sent is no frame")
            self._inbox.put(HearthdGone(f"it sent what is no frame: {error}"))

    def _receive(self, frame: wire.ToEngine) -> None:
        try:
            self._take(frame)
        except Refused as refused:
            self._link.send(refused.frame)
        except HearthdGone:
            raise
        except Exception:  # whatever a request says, those after it are heard
            log.exception("hearthd sent %s, which failed", type(frame).__name__)
            if isinstance(frame, wire.Submit | wire.Embed | wire.Encode | wire.Decode):
                message = "something failed inside the engine while the request was taken in"
                self._link.send(wire.Reject(frame.rid, 500, "internal_error", message))

    # --- the beat thread -----------------------------------------------------------------------

    def _beat(self) -> None:
        try:
            while not self._over.wait(BEAT_SECONDS):
                self._link.send(self._sign_of_life())
        except HearthdGone:
            return  # the intake thread has seen it too, and ends the loop
