"""The scheduler: one waiting queue, one step plan at a time, for every backend.

There are no prefill and decode phases. Each request's `n_computed` chases its tokens (and drafts)
under a budget of rows for each step: running requests first, decoding ones before prompts, then
waiting ones, as `seats` admits them; long prompts in chunks, cut so that those who decode are not held
up. When memory is short the request that ranks last is preempted and later recomputed, and nothing is
admitted in that step. (After vLLM's V1 scheduler; steps are transactions as in onnxruntime-genai's
engine.)
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hearth_backends.base import Capabilities
from hearth_backends.errors import Unsupported
from hearth_backends.kv.contract import BLOCK_TOKENS, KVStore, Want
from hearthd.engine import policy
from hearthd.engine.adapter_turns import AdapterTurns
from hearthd.engine.costs import LEAST_PROMPT_ROWS, PromptCosts
from hearthd.engine.drafting.drafter import Drafter
from hearthd.engine.flight import commit_decode, commit_mixed, launch, note_failure
from hearthd.engine.request import Request, RequestState
from hearthd.engine.seats import Seats
from hearthd.engine.selection import Selection
from hearthd.engine.sharing import Crowd, Shares, StepSharing
from hearthd.engine.step import StepPlan


class Unserviceable(Exception):
    """One request alone needs more key-value memory than there is."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.id)
        self.request = request


class Scheduler:
    """Owns every request of an engine from `add` until it is finished, and the store they live in."""

    def __init__(
        self,
        store: KVStore,
        caps: Capabilities,
        *,
        n_seq: int,
        step_tokens: int,
        n_batches: int = 1,
        itl_target_seconds: float = 0.05,
        aging_seconds: float = 30.0,
        has_adapters: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`n_batches`: steps with different requests that a pipeline keeps in flight.

        `itl_target_seconds`: between the tokens of a stream, while prompts are computed beside it.
        `aging_seconds`: after which a class gets a turn before those above it.
        `has_adapters`: requests may differ in theirs, which matters where a step applies few.
        """
        self.store = store
        self.caps = caps
        self.step_tokens = max(step_tokens, n_seq)
        self.max_wants = caps.max_wants or self.step_tokens
        self.mixed = caps.mixed and caps.ragged
        self.n_batches = n_batches
        self.drafter: Drafter | None = None
        self.clock = clock
        self.turns: AdapterTurns | None = None
        if has_adapters and caps.adapters_per_batch is not None:
            self.turns = AdapterTurns(caps.adapters_per_batch, itl_target_seconds)
        self.seats = Seats(store, n_seq, aging_seconds=aging_seconds, sent_back=self._stop_guessing)
        self.running, self.waiting = self.seats.running, self.seats.waiting
        self.shares = self.seats.shares
        self.costs = PromptCosts()
        self.sharing = StepSharing(
            self.costs, itl_target_seconds=itl_target_seconds, aging_seconds=aging_seconds
        )
        self._n_deadlines = 0  # requests here that have one
        self._shortest_first = False  # among prompts, in turns
        self._n_added = 0
        self._held_back = False  # a step preempted: admit nobody before one has been committed
        self._prompts_turn = False  # where they do not fit one step, prompts and decoding alternate
        self._n_decoded = 0  # rows of decoding so far: where the turn is when not all fit a step
        # by adapters: where the last three were after a step with these, for they alternate from step to step
        self._left_off: dict[frozenset[int], tuple[bool, bool, int]] = {}
        self._cohort: list[Request] = []  # who decoded last, mostly the same as who does next
        self._cohort_wants: list[Want] = []
        self._n_plans = 0  # in flight
        self._n_leaving = 0  # finished requests that a step in flight still names

    def draft_with(self, drafter: Drafter) -> None:
        """Let a drafter guess from now on; raises Unsupported where the stages cannot take guesses."""
        refusal = policy.draft_refusal(self.caps)
        if refusal is not None:
            raise Unsupported(refusal)
        self.drafter = drafter

    # --- arrivals and departures ---------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Put a new request in the queue."""
        self._n_added += 1
        request.order = self._n_added
        self._n_deadlines += request.priority.deadline_seconds is not None
        self.seats.join(request, self.clock())

    def finish(self, request: Request) -> None:
        """The request is over, for whatever reason; its memory is free once no step names it."""
        self.seats.leave(request)
        if request.state is RequestState.RUNNING:
            if request.n_inflight:
                self._n_leaving += 1
            else:
                self.store.release(request)
        request.state = RequestState.FINISHED
        self._n_deadlines -= request.priority.deadline_seconds is not None
        if self.drafter is not None:
            self.drafter.forget(request)

    def late(self) -> list[Request]:
        """Requests whose deadline has passed, or will have before they could have a token."""
        if not self._n_deadlines:
            return []
        now, row_seconds = self.clock(), self.costs.row_seconds
        late = [r for r in (*self.running, *self.waiting) if policy.has_expired(r, now)]
        late += [
            r for r in self.running if r not in late and policy.is_hopeless(r, row_seconds, now)
        ]
        return late

    def observe(self, plan: StepPlan, seconds: float) -> None:
        """A step was committed, and took so long."""
        n_decoding = plan.n_rows
        if not plan.is_decode:
            n_decoding = sum(
                n for n, d, s in zip(plan.counts, plan.drafts, plan.samples, strict=True)
                if s and n == 1 + d
            )  # fmt: skip
        self.costs.observe(n_decoding, plan.n_rows - n_decoding, seconds)

    @property
    def n_preemptions(self) -> int:
        """How often a request that ran was sent back to the queue."""
        return self.seats.n_preemptions

    @property
    def has_work(self) -> bool:
        """Whether any request is not finished."""
        return bool(self.running or self.waiting)

    def _stop_guessing(self, request: Request) -> None:
        """A request goes back to the queue."""
        if self.drafter is not None:
            self.drafter.leave(request)

    # --- planning ------------------------------------------------------------------------------

    def plan(self) -> StepPlan | None:
        """The next step, its memory reserved; None when nothing can be computed now.

        Raises Unserviceable when the only request there is cannot be given room.
        """
        self.seats.settle(self.clock())
        selection, admitted = self._select()
        while selection.requests:
            reservation = self.store.reserve(selection.wants)
            if reservation is not None:
                if admitted:
                    self.seats.note_start(admitted, self.clock())
                self._n_plans += 1
                return launch(selection, reservation)
            if selection.drop_drafts():
                continue
            if admitted and (len(self.running) > 1 or self._n_plans):
                self.seats.put_back(admitted.pop(), selection)
            elif not self._preempt(selection):
                break
        return None

    def _select(self) -> tuple[Selection, list[Request]]:
        """Pick work for one step; the second list holds requests that were waiting until now."""
        if self.turns is None:
            return self._select_among(None)
        now = self.clock()
        head = self.waiting.first()
        wanting = [r.adapter for r in self.running] + ([] if head is None else [head.adapter])
        for adapters in self.turns.order(wanting, now):
            left_off = self._left_off.get(adapters, (False, False, 0))
            self._prompts_turn, self._shortest_first, self._n_decoded = left_off
            selection, admitted = self._select_among(adapters)
            if selection.requests:
                left_off = (self._prompts_turn, self._shortest_first, self._n_decoded)
                self._left_off[adapters] = left_off
                self.turns.serve(adapters, now)
                return selection, admitted
        return Selection(0, 0), []

    def _select_among(self, adapters: frozenset[int] | None) -> tuple[Selection, list[Request]]:
        """The same, of requests with these adapters only; None: with any."""
        selection = Selection(self.step_tokens, self.max_wants, adapters)
        decoding, prompts = self._ready()
        self._prompts_turn = not self._prompts_turn
        if adapters is not None:
            decoding = [r for r in decoding if r.adapter in adapters]
            prompts = [r for r in prompts if r.adapter in adapters]
        ready = decoding
        decoding, prompts, n_rows, above = self._share_step(decoding, prompts)
        selection.bound_prompts(n_rows)
        if self.mixed and self._prompts_turn and len(decoding) >= self.max_wants:
            # else nothing is ever left for them
            admitted = self._pick_prompts(selection, prompts, above)
            self._pick_decoding(selection, [r for r in decoding if r not in selection.requests])
            return selection, admitted
        if self.mixed:
            self._pick_decoding(selection, decoding)
            admitted = self._pick_prompts(selection, prompts, above)
            if not selection.requests:
                self._pick_decoding(selection, ready)
            return selection, admitted
        if not self._prompts_turn:
            self._pick_decoding(selection, decoding)
        admitted = [] if selection.requests else self._pick_prompts(selection, prompts, above)
        if not selection.requests:
            self._pick_decoding(selection, ready)
        return selection, admitted

    def _ready(self) -> tuple[list[Request], list[Request]]:
        """Running requests that can compute something: those with one row to go, and the others."""
        decoding: list[Request] = []
        prompts: list[Request] = []
        overlaps = self.caps.async_depth > 0
        leaving = self.seats.leaving
        for request in self.running:
            if leaving and request in leaving:
                continue
            n_started = request.n_computed
            if request.n_inflight:
                n_started += request.n_inflight
                if not overlaps or self._must_land(request, n_started):
                    continue
            n_todo = len(request.tokens) + request.n_unknown - n_started
            if n_todo == 1 and (not request.scores_prompt or n_started >= request.n_prompt - 1):
                decoding.append(request)
            elif n_todo > 0:
                prompts.append(request)
        return decoding, prompts

    def _must_land(self, request: Request, n_started: int) -> bool:
        """Whether a request in flight can be planned only once its step is committed."""
        if request.n_unknown and (request.needs_host_token or self.drafter):
            return True
        return self.caps.rollback == "checkpoint" and not n_started % BLOCK_TOKENS

    def _pick_decoding(self, selection: Selection, decoding: list[Request]) -> None:
        most = -(-len(self.running) // self.n_batches)
        most = min(most, selection.wants_left, selection.rows_left)
        if len(decoding) > most:
            first = self._n_decoded % len(decoding)
            decoding = decoding[first:] + decoding[:first]
            self._n_decoded += most
        # one may have made way for a prompt of this step, and one whose last token is on the way has nothing to compute
        running = RequestState.RUNNING
        chosen = [
            r
            for r in decoding[:most]
            if r.state is running and len(r.tokens) + r.n_unknown < r.n_most
        ]
        drafts = self._draft(chosen, selection)
        if drafts is None:
            if chosen != self._cohort:
                self._cohort = chosen
                self._cohort_wants = [Want(request, 1) for request in chosen]
            selection.add_plain(chosen, self._cohort_wants)
            return
        for request, draft in zip(chosen, drafts, strict=True):
            request.draft = draft
            selection.add(request, 1 + len(draft), 1 + len(draft), len(draft))

    def _share_step(self, decoding: list[Request], prompts: list[Request]) -> Shares:
        head = self.waiting.first()
        may_enter = head is not None and self.seats.may_enter(head)
        crowd = Crowd(self.running, head, may_enter, self.seats.n_entering)
        return self.sharing.share(
            decoding, prompts, crowd, prompts_turn=self._prompts_turn, now=self.clock()
        )

    def _pick_prompts(
        self, selection: Selection, prompts: list[Request], above: int | None
    ) -> list[Request]:
        """Chunks of running prompts and of waiting ones, the more urgent first; returns those admitted.

        `above`: of those that wait, only such of a higher level.
        """
        admitted: list[Request] = []
        admits = not (self._held_back and self.running)
        if len(prompts) > 1:
            self._shortest_first = not self._shortest_first
            prompts = policy.prompt_order(prompts, shortest_first=self._shortest_first)
        is_alone = len(prompts) + len(self.waiting) <= 1
        selection.share_prompts = not is_alone and self.caps.saturating_rows is None
        for request in prompts:
            if admits:
                admitted += self.seats.admit(selection, self._pick_prompt, above=request.level)
            if request.state is not RequestState.RUNNING or request in self.seats.leaving:
                continue  # it has just given way
            if not self._pick_prompt(selection, request):
                return admitted
        if admits:
            admitted += self.seats.admit(selection, self._pick_prompt, above)
        return admitted

    def _draft(self, chosen: list[Request], selection: Selection) -> list[list[int]] | None:
        """Guesses for the decoding requests of a step; None where nobody guesses."""
        n_spare = min(selection.rows_left, selection.wants_left) - len(chosen)
        if self.drafter is None or not chosen or n_spare < 1:
            return None
        most = self.caps.max_prefill_seqs
        limits = [
            0 if r.n_unknown or (most is not None and i >= most) else r.n_most - len(r.tokens) - 1
            for i, r in enumerate(chosen)
        ]
        drafts = self.drafter.propose(chosen, limits, n_spare)
        drafts = [_fitting(r, draft) for r, draft in zip(chosen, drafts, strict=True)]
        return drafts if any(drafts) else None

    def _pick_prompt(self, selection: Selection, request: Request) -> bool:
        """Add a chunk of a prompt; False when the step takes no more of them."""
        most = selection.prompt_rows_left(LEAST_PROMPT_ROWS)
        if most < 1 or selection.wants_left < 1:
            return False
        start = request.n_given + request.n_inflight
        end = len(request.tokens) if request.limits.max_output else request.n_prompt - 1
        n_rows = min(end - start, most)
        if request.scores_prompt:
            n_rows = min(n_rows, selection.wants_left)
        elif self.caps.rollback == "checkpoint":
            n_rows = policy.rows_to_checkpoint(start, n_rows, len(request.tokens), BLOCK_TOKENS)
            parting = self.store.parting(request, start)
            if parting is not None:
                n_rows = min(n_rows, parting - start)
        if n_rows > 1 and self._is_full(selection):
            return False
        if not self.mixed and selection.wants and max(n_rows, selection.wants[0].n_tokens) > 1:
            return False
        selection.add_prompt(request, n_rows, n_rows if request.scores_prompt else 1)
        if start + n_rows == end:
            selection.end_prompt(self.caps.saturating_rows)
        return True

    def _is_full(self, selection: Selection) -> bool:
        """Whether no more sequences with several rows go into the step."""
        most = self.caps.max_prefill_seqs
        return most is not None and sum(want.n_tokens > 1 for want in selection.wants) >= most

    # --- shortage ------------------------------------------------------------------------------

    def _preempt(self, selection: Selection) -> bool:
        """Send the request that ranks last back to the queue; False when all are in flight."""
        request = policy.victim(self.running)
        if request is None:
            return False
        if len(self.running) == 1:
            if self._n_plans:
                return False  # what has finished holds its memory until its last step retires
            raise Unserviceable(request)
        self._held_back = True
        self.seats.evict(request, selection)
        return True

    def preempt_one(self) -> None:
        """Make room after a stage found none; raises Unserviceable when only one request is left."""
        self._preempt(Selection(0, 0))

    # --- the end of a step ---------------------------------------------------------------------

    def commit(self, plan: StepPlan, sampled: list[int]) -> list[list[int]]:
        """Record a step that happened; returns the tokens each request of the plan gained.

        `sampled` holds one token for each wanted row. Drafts count while they equal the sample at
        their position; the rest of their memory is given back.
        """
        self._held_back = False
        if plan.is_decode:
            gained = commit_decode(plan, sampled)
            self.store.commit(plan.reservation, {})
        else:
            gained, computed = commit_mixed(plan, sampled)
            self.store.commit(plan.reservation, computed)
        if self.shares.contended:
            for request, tokens in zip(plan.requests, gained, strict=True):
                self.shares.charge(request, len(tokens))
        self._retire(plan)
        return gained

    def rollback(self, plan: StepPlan) -> None:
        """Undo a step that did not happen; later steps in flight must have been undone before."""
        self.store.rollback(plan.reservation)
        for i, request in enumerate(plan.requests):
            request.n_inflight -= plan.counts[i]
            request.n_unknown -= plan.samples[i]
            request.draft = []
            if request.state is RequestState.RUNNING:
                note_failure(request)
                request.n_computed = self.store.committed(request)  # states go back further
                if i in plan.recalls:
                    request.may_recall = False
                    request.n_cached = min(request.n_cached, request.n_computed)
        self._retire(plan)

    def _retire(self, plan: StepPlan) -> None:
        """Free what finished while the step was in flight."""
        self._n_plans -= 1
        if not self._n_leaving:
            return
        for request in plan.requests:
            if request.state is RequestState.FINISHED and not request.n_inflight:
                self._n_leaving -= 1
                self.store.release(request)


def _fitting(request: Request, draft: list[int]) -> list[int]:
    """The guesses that the request's grammar lets stand."""
    if request.grammar is None or not draft:
        return draft
    return draft[: request.grammar.n_fitting(draft)]
