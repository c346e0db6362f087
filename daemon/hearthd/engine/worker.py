"""The engine process: one thread steps, one takes in requests, one gives signs of life."""

from __future__ import annotations

import gc
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from hearth_backends import registry
from hearth_backends.errors import BackendError, CapacityError, StepError
from hearthd import wire
from hearthd.engine.core import EngineCore
from hearthd.engine.drafting.drafter import DraftReport
from hearthd.engine.encoding.intake import EncodingIntake
from hearthd.engine.encoding.loader import (
    EncoderPlan,
    encoder_info,
    execute_encoder_load,
    plan_encoder,
)
from hearthd.engine.encoding.task import choose_encoding
from hearthd.engine.encoding.worker import serve_encoder
from hearthd.engine.intake import Arrival, Intake
from hearthd.engine.link import EngineLink, HearthdGone
from hearthd.engine.load_plan import plan_load
from hearthd.engine.loader import execute_load, model_info
from hearthd.engine.loop import EngineLoop
from hearthd.engine.peak import peak_bytes
from hearthd.engine.prefixes.file import SavedPrefix
from hearthd.engine.prefixes.tiers import PrefixCounters
from hearthd.engine.preparation import Preparation

log = logging.getLogger(__name__)

LARGE_VOCABULARY = 8192
"""Tokens from which on a vocabulary is not left until a request asks for a grammar."""
IDLE_SECONDS = 0.25
"""Without a command, before what can be done at leisure is done."""
PROGRESS_STEP = 0.01
"""Progress is told when it has grown by this much."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The file that a request waited for has been read; None: it was no good."""

    rid: int
    saved: SavedPrefix | None


_Command = Arrival | Fetched | wire.Cancel | wire.Hold | wire.Probe | wire.Stop | HearthdGone


class LeaseRefused(BackendError):
    """The ledger said no; the message is its arithmetic."""

    code = "insufficient_memory"


def serve(connection: socket.socket) -> int:
    """Load what hearthd says, serve until it stops or goes; returns the exit status."""
    link = EngineLink(connection)
    try:
        load = link.receive()
        if not isinstance(load, wire.Load):
            log.error("the first frame was %s, not Load", type(load).__name__)
            return 1
        return _load_and_serve(link, load)
    except HearthdGone as gone:
        log.info("hearthd has gone: %s", gone)
        return 0
    finally:
        link.close()


def _load_and_serve(link: EngineLink, load: wire.Load) -> int:
    started = time.monotonic()
    try:
        link.send(wire.Loading("reading", 0.0))
        model = registry.open_model(load.path)
        encoding = choose_encoding(model.spec, load.task, load.pooling)
        if encoding is not None:
            return _load_and_encode(link, load, plan_encoder(load, model, encoding), started)
        plan = plan_load(load, model)
        intake = Intake(
            plan.model,
            context=plan.room.context,
            adapters=plan.adapters,
            grammar_seconds=load.grammar_seconds,
        )
        with warming(intake):
            core = execute_load(plan, load, _grants(link), _progress(link), _begins(link))
    except BackendError as error:
        link.send(wire.Failed(error.code, str(error)))
        return 1
    with closing(core):
        link.send(wire.Ready(model_info(plan, core.pipeline.stages), time.monotonic() - started))
        gc.collect()
        gc.freeze()  # what the load left stays; collections while serving need not look at it
        try:
            Worker(link, core, intake).run()
        except BackendError as error:
            log.exception("the engine gives up")
            link.send(wire.Failed(error.code, str(error)))
            return 1
    return 0


def _load_and_encode(link: EngineLink, load: wire.Load, plan: EncoderPlan, started: float) -> int:
    core = execute_encoder_load(plan, load, _grants(link), _progress(link))
    dim, task = core.encoder.dim, plan.spec.task
    context = plan.spec.n_ctx
    intake = EncodingIntake(plan.model, name=load.name, task=task, context=context, dim=dim)
    link.send(wire.Ready(encoder_info(plan, load, dim), time.monotonic() - started))
    return serve_encoder(link, core, intake)


@contextmanager
def warming(intake: Intake) -> Iterator[None]:
    """A large vocabulary is made ready for grammars beside the load: later it would stall every request."""
    if intake.tokenizer.n_vocab < LARGE_VOCABULARY:
        yield
        return
    thread = threading.Thread(target=intake.grammars.warm, name="grammars", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _grants(link: EngineLink) -> Callable[[wire.LeaseRequest], int]:
    def grant(request: wire.LeaseRequest) -> int:
        link.send(request)
        answer = link.receive()
        if isinstance(answer, wire.LeaseGrant):
            return answer.lease
        if isinstance(answer, wire.LeaseRefusal):
            raise LeaseRefused(answer.message)
        raise BackendError(f"hearthd answered a lease request with {type(answer).__name__}")

    return grant


def _progress(link: EngineLink) -> Callable[[float], None]:
    told = 0.0

    def progress(fraction: float) -> None:
        nonlocal told
        if fraction - told >= PROGRESS_STEP or (fraction >= 1.0 > told):
            told = fraction
            link.send(wire.Loading("loading", fraction))

    return progress


def _begins(link: EngineLink) -> Callable[[str], None]:
    return lambda device: link.send(wire.Loading("loading", 0.0, device))


class Worker(EngineLoop[Arrival | Fetched]):
    """Runs the step loop in the calling thread until hearthd stops it or has gone."""

    def __init__(self, link: EngineLink, core: EngineCore, intake: Intake) -> None:
        super().__init__(link, core)
        self._core = core
        self._intake = intake
        self._kv_tokens_free = core.store.free_tokens()  # after the last step; the beat reads it
        self._save_seconds = 0.0  # for prefixes, once asked to stop
        self._stages_want_leisure = False  # after a step they may
        self._fetching: dict[int, Arrival] = {}  # by request: wait for their prefix from disk
        self._preparation = Preparation(intake.submit, self._inbox.put, link.send)

    def run(self) -> None:
        """Step while there is work, sleep while there is none; raises BackendError, HearthdGone."""
        try:
            with self._listening():
                while self._goes_on():
                    self._handle_commands()
                    if self._core.has_work:
                        self._step()
                self._give_up_the_rest()
                if self._core.prefixes is not None:
                    self._core.prefixes.flush(time.monotonic() + self._save_seconds)
        finally:
            self._preparation.close()
            if self._core.prefixes is not None:
                self._core.prefixes.close()

    def _give_up_the_rest(self) -> None:
        """At the deadline nobody is left without a last word."""
        self._handle_commands()  # what came meanwhile is refused
        for rid in self._preparation.give_up_all():
            self._refuse_new(rid)
        deltas = self._core.give_up_all("shutting_down", "the engine was stopped before the end")
        if deltas:
            self._link.send(wire.Step(deltas))

    def _step(self) -> None:
        with self._stepping():
            deltas = self._core.step()
        self._stages_want_leisure = True
        self._kv_tokens_free = self._core.store.free_tokens()
        if deltas:
            self._link.send(wire.Step(deltas))
        self._tell_probed()

    def _handle_commands(self) -> None:
        """Take what has arrived; wait for something where there is nothing else to do."""
        wait = not self._core.has_work and self._stop_by is None
        while True:
            try:
                command = self._inbox.get(block=wait, timeout=self._patience_seconds())
            except queue.Empty:
                if not wait:
                    return
                self._use_leisure()
                continue
            self._handle(command)
            wait = False

    def _patience_seconds(self) -> float | None:
        """How long to wait for a command; None: there is nothing else to do."""
        prefixes = self._core.prefixes
        is_wanted = prefixes is not None and prefixes.wants_idle_time
        return IDLE_SECONDS if is_wanted or self._stages_want_leisure else None

    def _use_leisure(self) -> None:
        """A bit of what waits for idle time."""
        prefixes = self._core.prefixes
        if prefixes is not None and prefixes.wants_idle_time:
            prefixes.save_hot()
        if not self._stages_want_leisure:
            return
        with self._stepping():
            try:
                self._stages_want_leisure = self._core.pipeline.idle()
            except (CapacityError, StepError) as error:  # what is not owed may be left
                log.warning("what a stage does at leisure was not done: %s", error)
                self._stages_want_leisure = False

    def _handle(self, command: _Command) -> None:
        match command:
            case Arrival() if self._stop_by is not None:
                self._refuse_new(command.request.id)
            case Arrival():
                self._enter(command)
            case Fetched():
                self._take_fetched(command)
            case wire.Cancel():
                if self._fetching.pop(command.rid, None) is None:
                    self._core.cancel(command.rid)
            case wire.Hold():
                self._core.scheduler.seats.hold(command)
            case wire.Probe():
                self._core.probe(command.number)
            case wire.Stop():
                self._stop_by = time.monotonic() + command.deadline_seconds
                self._save_seconds = command.save_seconds
                for rid in list(self._fetching):
                    self._take_fetched(Fetched(rid, None))
            case HearthdGone():
                raise command

    def _enter(self, arrival: Arrival) -> None:
        """A request goes to the core, once its prefix has come from disk where that has more of it."""
        request, prefixes = arrival.request, self._core.prefixes
        if prefixes is not None and prefixes.wants_fetch(request):
            self._fetching[request.id] = arrival
            prefixes.fetch(request, lambda saved: self._inbox.put(Fetched(request.id, saved)))
        else:
            self._add(arrival)

    def _take_fetched(self, fetched: Fetched) -> None:
        arrival = self._fetching.pop(fetched.rid, None)
        if arrival is not None and self._core.prefixes is not None:
            self._core.prefixes.fetched(arrival.request, fetched.saved)
            self._add(arrival)

    def _add(self, arrival: Arrival) -> None:
        deltas = self._core.add(arrival)
        if deltas:
            self._link.send(wire.Step(deltas))

    # --- the other threads ---------------------------------------------------------------------

    def _take(self, frame: wire.ToEngine) -> None:
        match frame:
            case wire.Submit() if frame.constraint is not None:
                self._preparation.take(frame)
            case wire.Submit():
                self._inbox.put(self._intake.submit(frame))
            case wire.Embed():
                self._link.send(self._intake.embed(frame))
            case wire.Encode():
                self._link.send(self._intake.encode(frame))
            case wire.Decode():
                self._link.send(self._intake.decode(frame))
            case wire.Cancel() if self._preparation.cancel(frame.rid):
                log.debug("request %d was cancelled before it was ready", frame.rid)
            case wire.Cancel() | wire.Hold() | wire.Probe() | wire.Stop():
                self._inbox.put(frame)
            case _:
                log.error("hearthd sent %s to an engine that is loaded", type(frame).__name__)

    def _sign_of_life(self) -> wire.Beat:
        scheduler, counters = self._core.scheduler, self._core.counters
        prefixes = self._core.prefixes
        recalls = PrefixCounters() if prefixes is None else prefixes.counters
        drafts = DraftReport() if scheduler.drafter is None else scheduler.drafter.report()
        return wire.Beat(
            n_running=len(scheduler.running),
            n_waiting=len(scheduler.waiting) + self._preparation.n_pending + len(self._fetching),
            kv_tokens_free=self._kv_tokens_free,
            step_age_seconds=self._step_age_seconds(),
            n_steps=counters.n_steps,
            n_prompt_tokens=counters.n_prompt_tokens,
            n_cached_tokens=counters.n_cached_tokens,
            n_output_tokens=counters.n_output_tokens,
            n_preemptions=scheduler.n_preemptions,
            n_step_failures=counters.n_step_failures,
            prefix_ram_bytes=0 if prefixes is None else prefixes.ram_bytes,
            prefix_disk_bytes=0 if prefixes is None else prefixes.disk_bytes,
            n_recalls=recalls.n_recalls,
            n_disk_recalls=recalls.n_disk_recalls,
            n_recalled_tokens=recalls.n_recalled_tokens,
            n_drafted=drafts.guessed,
            n_draft_accepted=drafts.accepted,
            draft_gain=drafts.gain,
            draft_model_seconds=drafts.model_seconds,
            draft_failure=drafts.failure,
            peak_bytes=peak_bytes(),
        )
