"""Seats: who runs and who waits; admits those who wait while there is room, and sends back those who make way.

Who comes next is decided by class, and within a class by what its key was served; batch gives up its seat
for what is more urgent, and a class that has waited too long is given a turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from hearth_backends.kv.contract import BLOCK_TOKENS, KVStore
from hearthd import wire
from hearthd.engine import policy
from hearthd.engine.fairness import FairShare
from hearthd.engine.prefixes.tiers import PrefixTiers
from hearthd.engine.request import Request, RequestState
from hearthd.engine.selection import Selection
from hearthd.engine.waiting import WaitingQueue

PickPrompt: TypeAlias = Callable[[Selection, Request], bool]
"""Adds a chunk of a request's prompt to a step; False when the step takes no more."""


class Seats:
    """Owns which of an engine's requests run and which wait, and what those who wait are owed."""

    def __init__(
        self,
        store: KVStore,
        n_seq: int,
        *,
        aging_seconds: float,
        sent_back: Callable[[Request], None],
    ) -> None:
        """`n_seq`: how many run at most. `sent_back` hears of each that ran and waits again.

        `aging_seconds`: after which a class gets a turn before those above it.
        """
        self.running: list[Request] = []
        self.shares = FairShare()
        self.waiting = WaitingQueue(lambda r: policy.waiting_rank(r, self.shares.served(r)))
        self.leaving: set[Request] = set()  # give way once no step in flight names them
        self.prefixes: PrefixTiers | None = None
        self.n_preemptions = 0
        self._store = store
        self._n_seq = self._n_open = n_seq
        self._aging_seconds = aging_seconds
        self._sent_back = sent_back
        self._latest_turns: dict[int, float] = {}  # of each level: when one of it was given a turn
        self._refused: tuple[int, int] | None = None  # request id, free tokens when it did not fit

    @property
    def n_entering(self) -> int:
        """Of those that wait, how many there are seats for."""
        return min(max(0, self._n_open - len(self.running)), len(self.waiting))

    def hold(self, share: wire.Hold) -> None:
        """Give out that many of the seats from now on; who has one keeps it."""
        self._n_open = share.of(self._n_seq)

    def join(self, request: Request, now: float) -> None:
        """A new request waits from now on."""
        request.queued_seconds = now
        self.shares.join(request)
        self.waiting.add(request)

    def leave(self, request: Request) -> None:
        """A request is over, wherever it was; its memory is not touched."""
        if request.state is RequestState.WAITING:
            self.waiting.remove(request)
        elif request.state is RequestState.RUNNING:
            self.running.remove(request)
        self.leaving.discard(request)
        self.shares.leave(request)

    # --- before a step -------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Let classes that have waited too long have a turn, and those that were to give way do."""
        if self.waiting:
            self._give_turns(now)
        if self.leaving:
            self._clear()

    def _give_turns(self, now: float) -> None:
        oldest = self.waiting.oldest_by_level()
        for request in policy.due_a_turn(oldest, self._latest_turns, self._aging_seconds, now):
            self._latest_turns[request.level] = now
            self.waiting.remove(request)
            request.level = max(oldest)
            self.waiting.add(request)

    def _clear(self) -> None:
        """Those that were to give way do, or stay where nobody is there for whom to."""
        head = self.waiting.first()
        for request in list(self.leaving):
            if head is None or policy.gives_way(head, (request,)) is None:
                self.leaving.discard(request)
            elif not request.n_inflight:
                self.evict(request, Selection(0, 0))

    # --- admission -----------------------------------------------------------------------------

    def admit(
        self, selection: Selection, pick: PickPrompt, above: int | None = None
    ) -> list[Request]:
        """Move waiting requests into the selection, in rank order, while they fit.

        `above`: only those of a higher level.
        """
        admitted: list[Request] = []
        while (request := self.waiting.first()) is not None:
            if above is not None and request.level <= above:
                break
            if not selection.takes(request):
                break
            if selection.prompt_rows_left(1) < 1 or not self._has_seat(request, selection):
                break
            if not self._fits(request, selection):
                break
            if not pick(selection, request):
                self._forget(request)
                break
            self._refused = None
            self.waiting.remove(request)
            self.running.append(request)
            request.state = RequestState.RUNNING
            if request.started_seconds is None:
                self.shares.charge(request, len(request.tokens) - request.n_given)
            admitted.append(request)
        return admitted

    def note_start(self, admitted: list[Request], now: float) -> None:
        """Note when requests left the queue, and what of their prompt was cached."""
        for request in admitted:
            if request.started_seconds is None:
                request.started_seconds = now
                request.n_cached = min(request.n_given, request.n_prompt)

    def _has_seat(self, request: Request, selection: Selection) -> bool:
        """Whether a request that waits can run, somebody else having made way for it where need be."""
        while len(self.running) >= self._n_open or not self._store.can_admit():
            if not self._make_way(request, selection):
                return False
        return True

    def _fits(self, request: Request, selection: Selection) -> bool:
        """Whether there is room for all of a request that waits, found or made; then it is matched."""
        while True:
            n_planned = sum(want.n_tokens for want in selection.wants)
            free = self._store.free_tokens() - n_planned
            if self.running and self._was_refused(request, free):
                return False
            request.n_computed = self._store.match(request)
            self._seek_copy(request)
            need = len(request.tokens) - request.n_computed
            need += policy.admission_margin_tokens(len(self.running), BLOCK_TOKENS)
            free = self._store.free_tokens() - n_planned
            if not self.running or need <= free:
                return True
            self._forget(request)
            if need > free + self._n_yielding(request) or not self._make_way(request, selection):
                self._refused = (request.id, free)
                return False

    def _was_refused(self, request: Request, free_tokens: int) -> bool:
        """Whether it did not fit when no less was free; spares looking for its prefix each step."""
        if self._refused is None:
            return False
        refused_id, refused_free = self._refused
        return refused_id == request.id and free_tokens <= refused_free

    def _seek_copy(self, request: Request) -> None:
        """Have a request that waits go on after a saved prefix, where memory has much less of it."""
        if self.prefixes is not None:
            request.recall = self.prefixes.find(request)
            if request.recall is not None:
                request.n_computed = self._store.match(request, 0)

    # --- making way ----------------------------------------------------------------------------

    def may_enter(self, request: Request) -> bool:
        """Whether one that waits finds a seat that is free, or that another has to leave for it."""
        return self.n_entering > 0 or policy.gives_way(request, self.running) is not None

    def _n_yielding(self, request: Request) -> int:
        """Tokens in memory of those that would give way to a request, and are not about to."""
        if policy.gives_way(request, self.running) is None:
            return 0
        return sum(r.n_computed for r in self.running if r.level <= policy.BATCH_LEVEL)

    def _make_way(self, request: Request, selection: Selection) -> bool:
        """Have one that runs give up its seat for a more urgent one that waits; False where none can now."""
        loser = policy.gives_way(request, [r for r in self.running if r not in self.leaving])
        if loser is None:
            return False
        if loser.n_inflight:
            self.leaving.add(loser)
            return False
        self.evict(loser, selection)
        return True

    def evict(self, request: Request, selection: Selection) -> None:
        """Back to the queue with a request that runs; its tokens stay in memory while there is room."""
        self.leaving.discard(request)
        request.draft = []
        request.n_preempted += 1
        self.n_preemptions += 1
        if self.prefixes is not None:
            self.prefixes.note(request, counts=False)
        self.put_back(request, selection)

    def put_back(self, request: Request, selection: Selection) -> None:
        """Back to the queue, as if nothing of it had been selected or computed."""
        selection.drop(request)
        self.running.remove(request)
        if request.started_seconds is None:  # it is charged when it is admitted again
            self.shares.charge(request, request.n_given - len(request.tokens))
        self._sent_back(request)
        self._forget(request)
        request.state = RequestState.WAITING
        self.waiting.add(request)

    def _forget(self, request: Request) -> None:
        self._store.release(request)
        request.n_computed = 0
        request.recall = None
