"""EngineCore: scheduler, pipeline and outputs of one model, one step at a time; no input or output."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hearth_backends.base import LoadedModel, Sampled
from hearth_backends.errors import BackendError, CapacityError, StepError
from hearth_backends.kv.contract import KVStore
from hearth_backends.sampling import NO_TOKEN
from hearthd import wire
from hearthd.engine.batching import BatchBuilder
from hearthd.engine.intake import Arrival
from hearthd.engine.output import Output
from hearthd.engine.pipeline import Pipeline, Ticket
from hearthd.engine.prefixes.tiers import PrefixTiers
from hearthd.engine.prober import Prober
from hearthd.engine.request import Request
from hearthd.engine.scheduler import Scheduler, Unserviceable
from hearthd.engine.step import StepOutcome, StepPlan

log = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 3
"""Steps that may fail one after the other before the requests in them are given up."""
MAX_FAILURES_IN_PLACE = 20
"""Steps of one request that may fail before it gets further than it was; states start anew each time."""


@dataclass(slots=True)
class Counters:
    """Totals since the engine started."""

    n_steps: int = 0
    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0
    n_output_tokens: int = 0
    n_step_failures: int = 0


class EngineCore:
    """Runs requests to their end; every method is called from one thread."""

    def __init__(
        self,
        model: LoadedModel,
        pipeline: Pipeline,
        store: KVStore,
        scheduler: Scheduler,
        *,
        context: int | None = None,
        prefixes: PrefixTiers | None = None,
        after_step: Callable[[StepOutcome], None] | None = None,
    ) -> None:
        """`after_step` hears the outcome of each step; tests check the store's integrity there."""
        self.model = model
        self.pipeline = pipeline
        self.store = store
        self.scheduler = scheduler
        self.prefixes = scheduler.seats.prefixes = prefixes
        self.counters = Counters()
        self._after_step = after_step
        self._builder = BatchBuilder()
        self._outputs: dict[int, Output] = {}
        self._requests: dict[int, Request] = {}
        self._in_flight: deque[tuple[StepPlan, Ticket]] = deque()
        self._depth = max(pipeline.n_batches, 1 + pipeline.caps.async_depth)
        self._n_failures = 0
        self._prober = Prober(
            store,
            digest=model.spec.digest,
            first_token=model.tokenizer.bos_id or 0,
            context=context or model.spec.context_trained,
        )
        self._probe: Request | None = None  # under way
        self._asked: list[int] = []  # numbers of probes without an answer
        self._probed: list[int] = []  # and of those with one, until they are told
        self._began_seconds = 0.0  # when the oldest step in flight had the stages for itself

    @property
    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._in_flight) or self.scheduler.has_work

    def close(self) -> None:
        """Free the stages, and what guesses for them."""
        self.pipeline.close()
        if self.scheduler.drafter is not None:
            self.scheduler.drafter.close()

    def add(self, arrival: Arrival) -> list[wire.Delta]:
        """Take a request; returns its only delta when there is nothing to compute for it."""
        request, output = arrival.request, arrival.output
        computes = request.n_output < request.limits.max_output
        if request.scores_prompt:
            output.score([self._unscored(request.tokens[0])])
        if not computes and not (request.scores_prompt and request.n_prompt > 1):
            return [output.end("length")]
        if self._probe is not None and not self._probe.n_inflight:
            self._end_probe(self._probe)  # this request's own steps are proof enough
        self._requests[request.id] = request
        self._outputs[request.id] = output
        self.scheduler.add(request)
        return []

    def cancel(self, rid: int) -> None:
        """The client has gone: nothing more is said about this request."""
        request = self._requests.pop(rid, None)
        if request is not None:
            del self._outputs[rid]
            self._finish(request)

    def give_up_all(self, code: str, message: str) -> list[wire.Delta]:
        """The last deltas of all requests, which end here with this error."""
        return [self._give_up(request, code, message) for request in list(self._requests.values())]

    def probe(self, number: int) -> None:
        """Asks for a sign of work: `take_probed` has the number once a step was committed.

        Without anything to do, the step is one of its own; see `prober`.
        """
        self._asked.append(number)
        if not self.has_work:
            self._probe = self._prober.request(-number)
            self.scheduler.add(self._probe)

    def take_probed(self) -> list[int]:
        """Numbers of the probes that have their answer now."""
        probed, self._probed = self._probed, []
        return probed

    def step(self) -> list[wire.Delta]:
        """Put steps in flight, then see the oldest one through; returns what came of it.

        Raises BackendError when a stage is beyond use.
        """
        deltas = [
            self._give_up(request, "deadline_exceeded", _TOO_LATE)
            for request in self.scheduler.late()
        ]
        if not self._in_flight:
            self._began_seconds = self.scheduler.clock()
        while len(self._in_flight) < self._depth:
            try:
                plan = self.scheduler.plan()
            except Unserviceable as error:
                if error.request is self._probe:
                    self._end_probe(error.request)
                    continue
                deltas.append(self._give_up(error.request, "kv_capacity", _NO_ROOM_EVER))
                continue
            if plan is None:
                break
            try:
                ticket = self.pipeline.submit(self._builder.build(plan), plan.reservation)
            except (StepError, CapacityError) as error:
                self.scheduler.rollback(plan)
                deltas += self._after_failure(error, plan)
                break
            self._in_flight.append((plan, ticket))
        if self._in_flight:
            deltas += self._complete()
        return deltas

    # --- the end of a step ---------------------------------------------------------------------

    def _complete(self) -> list[wire.Delta]:
        plan, ticket = self._in_flight.popleft()
        try:
            sampled = self.pipeline.wait(ticket)
        except (StepError, CapacityError) as error:
            self._roll_back(plan)
            return self._after_failure(error, plan)
        self._n_failures = 0
        gained = self.scheduler.commit(plan, sampled.tokens.tolist())
        if self.prefixes is not None:
            for i, recalled in plan.recalls.items():
                self.prefixes.recalled(plan.requests[i], recalled)
        self._teach(plan, gained)
        self.counters.n_steps += 1
        if self._asked:
            self._probed += self._asked
            self._asked.clear()
        if self._probe is not None and self._probe.n_output:
            self._end_probe(self._probe)
        deltas = self._speak(plan, sampled, gained)
        self._tell(StepOutcome.COMMITTED)
        return deltas

    def _teach(self, plan: StepPlan, gained: list[list[int]]) -> None:
        """Who decides by what steps cost hears what this one did."""
        now = self.scheduler.clock()
        seconds, self._began_seconds = now - self._began_seconds, now
        if plan.recalls:
            return  # the time went elsewhere
        self.scheduler.observe(plan, seconds)
        if self.scheduler.drafter is not None:
            self.scheduler.drafter.observe(plan, [len(tokens) for tokens in gained], seconds)

    def _speak(self, plan: StepPlan, sampled: Sampled, gained: list[list[int]]) -> list[wire.Delta]:
        """Deltas of a committed step; finishes the requests that came to their end."""
        deltas: list[wire.Delta] = []
        row = 0
        for i, request in enumerate(plan.requests):
            n_scored, n_sampled = plan.scored[i], plan.samples[i] * (1 + plan.drafts[i])
            tokens = gained[i]
            output = self._outputs.get(request.id)
            if output is not None and tokens and tokens[-1] == NO_TOKEN:
                deltas.append(self._give_up(request, *_why_nothing(request)))
            elif output is not None and not _follow(request, tokens):
                deltas.append(self._give_up(request, "grammar_failed", _OFF_GRAMMAR))
            elif output is not None and (tokens or n_scored):
                if n_scored:
                    self._score(output, request, sampled, row, n_scored)
                self.counters.n_output_tokens += len(tokens)
                delta = self._advance(output, request, sampled, row + n_scored, tokens)
                if delta is not None:
                    deltas.append(delta)
            row += n_scored + n_sampled
        return deltas

    def _advance(
        self, output: Output, request: Request, sampled: Sampled, row: int, tokens: list[int]
    ) -> wire.Delta | None:
        delta = None
        if tokens:
            logprobs = None
            if request.params.n_logprobs is not None:
                logprobs = [self._logprob(sampled, row + j, t) for j, t in enumerate(tokens)]
            is_over = request.grammar is not None and request.grammar.is_over
            delta = output.advance(tokens, logprobs, is_over=is_over)
        elif not request.limits.max_output and request.n_computed >= request.n_prompt - 1:
            delta = output.end("length")
        if output.finish is not None:
            self._leave(request)
        return delta

    def _score(
        self, output: Output, request: Request, sampled: Sampled, row: int, n_scored: int
    ) -> None:
        first = request.n_scored - n_scored
        output.score(
            [
                self._logprob(sampled, row + j, request.tokens[first + j + 1])
                for j in range(n_scored)
            ]
        )

    def _unscored(self, token: int) -> wire.TokenLogprob:
        """The first token of a text: nothing came before it that could make it likely."""
        return wire.TokenLogprob(token, self.model.tokenizer.piece(token, special=True), None)

    def _logprob(self, sampled: Sampled, row: int, token: int) -> wire.TokenLogprob:
        piece = self.model.tokenizer.piece
        logprob = None if sampled.logprobs is None else float(sampled.logprobs[row])
        best = sampled.top[row] if sampled.top else None
        top: list[tuple[int, bytes, float]] = []
        if best is not None:
            top = [
                (t, piece(t, special=True), p)
                for t, p in zip(best.tokens.tolist(), best.logprobs.tolist(), strict=True)
            ]
        return wire.TokenLogprob(token, piece(token, special=True), logprob, top)

    def _leave(self, request: Request) -> None:
        self.counters.n_prompt_tokens += request.n_prompt
        self.counters.n_cached_tokens += request.n_cached
        del self._outputs[request.id], self._requests[request.id]
        self._prober.note(request)
        self._finish(request)

    def _finish(self, request: Request) -> None:
        if self.prefixes is not None:
            self.prefixes.note(request)
        self.scheduler.finish(request)

    def _end_probe(self, probe: Request) -> None:
        self._probe = None
        if self.scheduler.caps.rollback == "any":
            self._prober.take_back(probe)
        self.scheduler.finish(probe)

    def _give_up(self, request: Request, code: str, message: str) -> wire.Delta:
        delta = self._outputs[request.id].end("error", (code, message))
        self._leave(request)
        return delta

    # --- failure -------------------------------------------------------------------------------

    def _roll_back(self, failed: StepPlan) -> None:
        """Undo a step that failed under way, and all after it."""
        undone = [failed]
        while self._in_flight:
            plan, ticket = self._in_flight.popleft()
            try:
                self.pipeline.wait(ticket)
            except (StepError, CapacityError) as also:
                log.debug("a later step failed too: %s", also)
            undone.append(plan)
        for plan in reversed(undone):
            self.scheduler.rollback(plan)

    def _after_failure(self, error: BackendError, failed: StepPlan) -> list[wire.Delta]:
        """What was in a failed step is planned again, preempted, or given up."""
        self.counters.n_step_failures += 1
        if self._probe is not None and self._probe in failed.requests:
            self._end_probe(self._probe)  # it has no answer; the next one may
        stuck = [r for r in failed.requests if r.n_failed >= MAX_FAILURES_IN_PLACE]
        deltas = self._abandon(stuck, error)
        if failed.recalls and self.prefixes is not None:  # none of them is tried again
            for i, recalled in failed.recalls.items():
                self.prefixes.refused(failed.requests[i], recalled, error)
            self._tell(StepOutcome.RETRY)
            return deltas
        if isinstance(error, CapacityError):
            return deltas + self._make_room(failed)
        self._n_failures += 1
        log.warning("step failed (%d in a row): %s", self._n_failures, error)
        if self._n_failures >= MAX_FAILURES_IN_A_ROW:
            self._n_failures = 0
            deltas += self._abandon(failed.requests, error)
        self._tell(StepOutcome.ABANDONED if deltas else StepOutcome.RETRY)
        return deltas

    def _abandon(self, requests: Sequence[Request], error: BackendError) -> list[wire.Delta]:
        """Give up those of the requests that are not over yet."""
        message = f"the backend failed too often on this work: {error}"
        return [
            self._give_up(request, error.code, message)
            for request in requests
            if request.id in self._requests
        ]

    def _make_room(self, failed: StepPlan) -> list[wire.Delta]:
        """A stage found less room than its store promised: somebody has to give way."""
        deltas: list[wire.Delta] = []
        try:
            self.scheduler.preempt_one()
        except Unserviceable as unserviceable:
            self._n_failures += 1
            if self._n_failures >= MAX_FAILURES_IN_A_ROW:
                self._n_failures = 0
                deltas.append(self._give_up(unserviceable.request, "kv_capacity", _NO_ROOM_EVER))
        log.warning("a step of %d rows found no room in key-value memory", failed.n_rows)
        self._tell(StepOutcome.NO_ROOM)
        return deltas

    def _tell(self, outcome: StepOutcome) -> None:
        if self._after_step is not None:
            self._after_step(outcome)


def _why_nothing(request: Request) -> tuple[str, str]:
    """Why no token was left to choose: code and message."""
    grammar = request.grammar
    if grammar is not None and grammar.is_too_slow:
        allowed = f"{grammar.mask_seconds * 1000:g} ms"
        return "grammar_too_slow", f"{_TOO_SLOW} (grammar_ms: {allowed} a token)"
    broken = None if grammar is None else grammar.error
    if broken is not None:
        return "no_token", f"the grammar gave up: {broken}"
    return "no_token", _NOTHING_LEFT_TO_SAMPLE


def _follow(request: Request, tokens: list[int]) -> bool:
    """Take what was gained into the request's grammar; False where it does not fit.

    What comes after the end of a whole output, an end token, is taken off the tokens.
    """
    grammar = request.grammar
    if grammar is None:
        return True
    for i, token in enumerate(tokens):
        if token in request.limits.end_ids:
            break
        if not grammar.accept(token):
            return False
        if grammar.is_over:
            del tokens[i + 1 :]
    return True


_TOO_LATE = "the deadline of the request has passed, or no token could come before it"
_TOO_SLOW = "the grammar takes so long for each token that everybody would wait for it"
_OFF_GRAMMAR = "the output has left its grammar"
_NOTHING_LEFT_TO_SAMPLE = "the model's logits, or what masks them, leave no token to choose"
_NO_ROOM_EVER = "the request needs more key-value memory than this model was given"
