"""The process of an encoding engine: one thread computes, one takes in, one gives signs of life."""

from __future__ import annotations

import logging
import queue
import time
from contextlib import closing

from hearth_backends.errors import BackendError
from hearthd import wire
from hearthd.engine.encoding.core import EncodingCore
from hearthd.engine.encoding.intake import EncodingIntake
from hearthd.engine.encoding.job import Job
from hearthd.engine.link import EngineLink, HearthdGone
from hearthd.engine.loop import EngineLoop

log = logging.getLogger(__name__)

_Command = Job | wire.Cancel | wire.Hold | wire.Probe | wire.Stop | HearthdGone


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


class EncodingWorker(EngineLoop[Job]):
    """Runs batches in the calling thread until hearthd stops it or has gone."""

    def __init__(self, link: EngineLink, core: EncodingCore, intake: EncodingIntake) -> None:
        super().__init__(link, core)
        self._core = core
        self._intake = intake
        self._n_jobs = (0, 0)  # started, and all

    def run(self) -> None:
        """Compute while there is work, sleep while there is none; raises BackendError, HearthdGone."""
        with self._listening():
            while self._goes_on():
                self._handle_commands()
                if self._core.has_work:
                    self._step()

    def _step(self) -> None:
        with self._stepping():
            answers = self._core.step()
        for answer in answers:
            self._link.send(answer)
        self._tell_probed()

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
                self._refuse_new(command.id)
            case Job():
                self._core.add(command)
            case wire.Cancel():
                self._core.cancel(command.rid)
            case wire.Hold():
                self._core.queue.hold(command)
            case wire.Probe():
                self._core.probe(command.number)
            case wire.Stop():
                self._stop_by = time.monotonic() + command.deadline_seconds
            case HearthdGone():
                raise command

    def _take(self, frame: wire.ToEngine) -> None:
        match frame:
            case wire.Embed():
                self._inbox.put(self._intake.embed(frame))
            case wire.Submit():
                self._link.send(self._intake.submit(frame).frame)
            case wire.Encode():
                self._link.send(self._intake.encode(frame))
            case wire.Decode():
                self._link.send(self._intake.decode(frame))
            case wire.Cancel() | wire.Hold() | wire.Probe() | wire.Stop():
                self._inbox.put(frame)
            case _:
                log.error("hearthd sent %s to an engine that encodes", type(frame).__name__)

    def _sign_of_life(self) -> wire.Beat:
        counters = self._core.counters
        n_started, n_jobs = self._n_jobs
        return wire.Beat(
            n_running=n_started,
            n_waiting=n_jobs - n_started,
            kv_tokens_free=None,
            step_age_seconds=self._step_age_seconds(),
            n_steps=counters.n_steps,
            n_prompt_tokens=counters.n_tokens,
            n_cached_tokens=0,
            n_output_tokens=0,
            n_preemptions=0,
            n_step_failures=counters.n_step_failures,
            n_texts=counters.n_texts,
            busy_seconds=counters.busy_seconds,
        )
