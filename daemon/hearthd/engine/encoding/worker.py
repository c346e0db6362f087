"""The process of an encoding engine: one thread computes, one takes in, one gives signs of life."""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import closing

from hearth_backends.errors import BackendError
from hearthd import wire
from hearthd.engine.encoding.core import EncodingCore
from hearthd.engine.encoding.intake import EncodingIntake
from hearthd.engine.encoding.job import Job
from hearthd.engine.intake import Refused
from hearthd.engine.link import EngineLink, HearthdGone

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0

_Command = Job | wire.Cancel | wire.Probe | wire.Stop | HearthdGone


def serve_encoder(link: EngineLink, core: EncodingCore, intake: EncodingIntake) -> int:
    """Serve until hearthd stops it; returns the exit status. Raises HearthdGone."""
    with closing(core.encoder):
        try:
            EncodingWorker(link, core, intake).run()
        except BackendError as error:
            log.exception("the engine gives up")
            link.send(wire.Failed(error.code, str(error)))
            return 1
    return 0


class EncodingWorker:
    """Runs batches in the calling thread until hearthd stops it or has gone."""

    def __init__(self, link: EngineLink, core: EncodingCore, intake: EncodingIntake) -> None:
        self._link = link
        self._core = core
        self._intake = intake
        self._inbox: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._step_began: float | None = None
        self._stop_by: float | None = None  # once asked to stop
        self._over = threading.Event()
        self._n_jobs = (0, 0)  # started, and all

    def run(self) -> None:
        """Compute while there is work, sleep while there is none; raises BackendError, HearthdGone."""
        threads = [
            threading.Thread(target=self._take_in, name="intake", daemon=True),
            threading.Thread(target=self._beat, name="beat", daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            while self._stop_by is None or self._may_go_on(self._stop_by):
                self._handle_commands()
                if self._core.has_work:
                    self._step()
        finally:
            self._over.set()

    def _may_go_on(self, stop_by: float) -> bool:
        return self._core.has_work and time.monotonic() < stop_by

    def _step(self) -> None:
        self._step_began = time.monotonic()
        answers = self._core.step()
        self._step_began = None
        for answer in answers:
            self._link.send(answer)
        for number in self._core.take_probed():
            self._link.send(wire.Probed(number))

    def _handle_commands(self) -> None:
        """Take what has arrived; wait for something where there is nothing else to do."""
        wait = not self._core.has_work and self._stop_by is None
        while True:
            try:
                command = self._inbox.get(block=wait)
            except queue.Empty:
                break
            self._handle(command)
            wait = False
        jobs = self._core.queue
        self._n_jobs = (jobs.n_started, len(jobs))

    def _handle(self, command: _Command) -> None:
        match command:
            case Job() if self._stop_by is not None:
                message = "the engine is stopping and takes nothing new"
                self._link.send(wire.Reject(command.id, 503, "shutting_down", message))
            case Job():
                self._core.add(command)
            case wire.Cancel():
                self._core.cancel(command.rid)
            case wire.Probe():
                self._core.probe(command.number)
            case wire.Stop():
                self._stop_by = time.monotonic() + command.deadline_seconds
            case HearthdGone():
                raise command

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
            match frame:
                case wire.Embed():
                    self._inbox.put(self._intake.embed(frame))
                case wire.Submit():
                    self._link.send(self._intake.submit(frame).frame)
                case wire.Encode():
                    self._link.send(self._intake.encode(frame))
                case wire.Decode():
                    self._link.send(self._intake.decode(frame))
                case wire.Cancel() | wire.Probe() | wire.Stop():
                    self._inbox.put(frame)
                case _:
                    log.error("hearthd sent %s to an engine that encodes", type(frame).__name__)
        except Refused as refused:
            self._link.send(refused.frame)
        except HearthdGone:
            raise
        except Exception:  # whatever a request says, those after it are heard
            log.exception("hearthd sent %s, which failed", type(frame).__name__)
            if isinstance(frame, wire.Embed | wire.Submit | wire.Encode | wire.Decode):
                message = "something failed inside the engine while the request was taken in"
                self._link.send(wire.Reject(frame.rid, 500, "internal_error", message))

    # --- the beat thread -----------------------------------------------------------------------

    def _beat(self) -> None:
        try:
            while not self._over.wait(BEAT_SECONDS):
                self._link.send(self._sign_of_life())
        except HearthdGone:
            return  # the intake thread has seen it too, and ends the loop

    def _sign_of_life(self) -> wire.Beat:
        counters = self._core.counters
        began, (n_started, n_jobs) = self._step_began, self._n_jobs
        return wire.Beat(
            n_running=n_started,
            n_waiting=n_jobs - n_started,
            kv_tokens_free=None,
            step_age_seconds=None if began is None else time.monotonic() - began,
            n_steps=counters.n_steps,
            n_prompt_tokens=counters.n_tokens,
            n_cached_tokens=0,
            n_output_tokens=0,
            n_preemptions=0,
            n_step_failures=counters.n_step_failures,
            n_texts=counters.n_texts,
            busy_seconds=counters.busy_seconds,
        )
