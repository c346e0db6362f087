"""DraftModel: a small model whose key-value memory keeps step with the requests of a larger one.

Each request that it follows is a sequence in a store of its own, under the same block hashes. What it
guesses stays in its memory until the request has gone on; then what did not stand is cut off. It never
costs a request anything but time: a step of it that fails is undone and gives no guesses, and after some
in a row it guesses no more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from hearth_backends.errors import BackendError, CapacityError, StepError
from hearth_backends.kv.contract import KVStore, Reservation, Want
from hearthd.engine.costs import StepCosts
from hearthd.engine.drafting.batches import Rows, batch_of, packs
from hearthd.engine.pipeline import Pipeline
from hearthd.engine.request import Request

log = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 3
"""Steps of the draft model that may fail one after the other before it is given up."""
_ROW_EWMA = 0.3
_LEAST_MEASURED = 8  # rows of a step that tells what a row costs
NEAR_TOKENS = 8
"""Tokens that it has not seen, which it computes as it begins to guess."""


class Follower:
    """A request as a sequence of the draft model."""

    __slots__ = ("n_at_guess", "proposed", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.proposed: list[int] = []  # guessed after the first n_at_guess tokens, and not settled
        self.n_at_guess = 0

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def tokens(self) -> Sequence[int]:
        return self.request.tokens

    @property
    def block_hashes(self) -> Sequence[bytes]:
        """The larger model's: they name a prefix, its adapter and its salt as well as any others would."""
        return self.request.block_hashes

    @property
    def shares(self) -> bool:
        return self.request.shares


class DraftModel:
    """Owns the draft model's pipeline and store."""

    def __init__(
        self, pipeline: Pipeline, store: KVStore, *, context: int, n_rows: int, n_vocab: int
    ) -> None:
        """`n_rows`: of one step at most; `n_vocab`: tokens that both models have."""
        self.pipeline = pipeline
        self.store = store
        self.context = context
        self.n_vocab = n_vocab
        self.clock = time.monotonic
        self.failure: str | None = None  # why it guesses no more
        self.costs = StepCosts()  # by rows, of steps that guess
        self.row_seconds: float | None = None  # of a row of many
        self._n_rows = n_rows
        self._followers: dict[int, Follower] = {}
        self._unsettled: dict[int, Follower] = {}
        self._foreign: set[int] = set()  # requests with tokens that only the larger model has
        self._n_failures = 0

    # --- what it has seen ----------------------------------------------------------------------

    def room(self, request: Request) -> int:
        """Tokens that may be guessed after those of a request; 0 where it cannot follow."""
        if request.id in self._foreign:
            return 0
        return max(0, self.context - len(request.tokens))

    def is_near(self, request: Request) -> bool:
        """Whether it can guess for a request at once."""
        follower = self._followers.get(request.id)
        if follower is None:
            return False
        n_unseen = len(request.tokens) - self.store.committed(follower)
        return n_unseen <= min(1 + NEAR_TOKENS, self._n_rows)

    def n_behind(self, request: Request) -> int:
        """Tokens of a request that it has not seen; it is followed from now on."""
        follower = self._follower(request)
        seen = 0 if follower is None else self.store.committed(follower)
        return max(1, len(request.tokens) - seen)

    def settle(self) -> None:
        """Cut off what it guessed and what did not stand; before anything else is made of its memory."""
        for follower in list(self._unsettled.values()):
            if not follower.request.n_inflight:  # else what it guessed is being tried
                del self._unsettled[follower.id]
                self._settle(follower)

    def _settle(self, follower: Follower) -> None:
        request, n = follower.request, follower.n_at_guess
        for guessed, token in zip(follower.proposed, request.tokens[n:], strict=False):
            if guessed != token:
                break
            n += 1
        self.store.truncate(follower, min(n, len(request.tokens) - 1))
        follower.proposed = []

    def follow(self, requests: Sequence[Request], n_rows: int) -> None:
        """Compute at most n_rows of what it has not seen of some requests."""
        self.settle()
        rows: list[Rows] = []
        for request in requests:
            follower = self._follower(request)
            unseen = None if follower is None else self._unseen(follower)
            if unseen is None:
                continue
            n_now = min(len(unseen.tokens) - 1, n_rows, self._n_rows)
            if n_now > 0:
                n_rows -= n_now
                rows.append(Rows(unseen.follower, unseen.start, unseen.tokens[:n_now]))
        for pack in packs(rows, self.pipeline.caps, self._n_rows):
            self._step(pack, wanted=False)

    def _follower(self, request: Request) -> Follower | None:
        """The request's sequence, begun where need be; None where it cannot be followed now."""
        known = self._followers.get(request.id)
        if known is not None or self.failure is not None or not self.room(request):
            return known
        if not self.store.can_admit():
            return None
        self.settle()  # what is matched must be what it says
        follower = self._followers[request.id] = Follower(request)
        self.store.match(follower)
        return follower

    def _unseen(self, follower: Follower) -> Rows | None:
        """What is to be computed of a request; None where it has tokens that only the larger model has."""
        request, start = follower.request, self.store.committed(follower)
        unseen = request.tokens[start:]
        if max(unseen) < self.n_vocab:
            return Rows(follower, start, unseen)
        self.leave(request)
        self._foreign.add(request.id)
        return None

    # --- guesses -------------------------------------------------------------------------------

    def guess(self, requests: Sequence[Request], n_tokens: int) -> list[list[int]]:
        """What each request will say next, at most n_tokens; all of them in one step for each token.

        Nothing for those that it is not near. It samples as the request does, with the noise that the
        request's own token at that place will have: at any temperature, a model that thinks the same
        guesses the same.
        """
        self.settle()
        depths = [self._depth(request, n_tokens) for request in requests]
        drafts: list[list[int]] = [[] for _ in requests]
        going: dict[int, Rows] = {}
        for i, (request, depth) in enumerate(zip(requests, depths, strict=True)):
            follower = self._followers.get(request.id)
            if follower is None or depth < 1:
                continue
            unseen = self._unseen(follower)
            if unseen is not None:
                going[i] = unseen
        while going and self.failure is None:
            going = self._guess_one(going, drafts, depths)
        for request, draft in zip(requests, drafts, strict=True):
            follower = self._followers.get(request.id)
            if draft and follower is not None:
                follower.n_at_guess = len(request.tokens)
                follower.proposed = draft
                self._unsettled[request.id] = follower
        return drafts

    def _depth(self, request: Request, n_tokens: int) -> int:
        """How far it can guess for a request."""
        if not self.is_near(request):
            return 0
        n_left = request.n_most - len(request.tokens) - 1  # the last one of all comes by itself
        return min(n_tokens, self.room(request), n_left)

    def _guess_one(
        self, going: dict[int, Rows], drafts: list[list[int]], depths: Sequence[int]
    ) -> dict[int, Rows]:
        """One token more for those that go on; what is to be computed for those that still do."""
        index = {rows.follower.id: i for i, rows in going.items()}
        left: dict[int, Rows] = {}
        for pack in packs(list(going.values()), self.pipeline.caps, self._n_rows):
            for rows, token in zip(pack, self._step(pack, wanted=True), strict=False):
                i = index[rows.follower.id]
                if not 0 <= token < self.n_vocab:
                    continue
                drafts[i].append(token)
                if len(drafts[i]) < depths[i] and token not in rows.follower.request.limits.end_ids:
                    left[i] = Rows(rows.follower, rows.end, [token], [*rows.guessed, token])
        return left

    # --- a step --------------------------------------------------------------------------------

    def _step(self, pack: Sequence[Rows], *, wanted: bool) -> list[int]:
        """Compute rows; one sample for each of the pack where wanted, nothing at all where it fails."""
        if self.failure is not None:
            return []
        began = self.clock()
        reservation = self.store.reserve([Want(r.follower, len(r.tokens)) for r in pack])
        if reservation is None:
            return []
        try:
            ticket = self.pipeline.submit(batch_of(pack, reservation, wanted=wanted), reservation)
            sampled = self.pipeline.wait(ticket)
        except BackendError as error:
            self._undo(reservation, error)
            return []
        self.store.commit(reservation, {})
        self._n_failures = 0
        self._measure(sum(len(r.tokens) for r in pack), len(pack), self.clock() - began, wanted)
        tokens: list[int] = sampled.tokens.tolist()
        return tokens

    def _measure(self, n_rows: int, n_requests: int, seconds: float, wanted: bool) -> None:
        if wanted:
            self.costs.observe(n_requests, seconds)
        elif n_rows >= _LEAST_MEASURED:
            known = self.row_seconds
            each = seconds / n_rows
            self.row_seconds = each if known is None else known + _ROW_EWMA * (each - known)

    def _undo(self, reservation: Reservation, error: BackendError) -> None:
        self.store.rollback(reservation)
        self._n_failures += 1
        if isinstance(error, StepError | CapacityError) and (
            self._n_failures < MAX_FAILURES_IN_A_ROW
        ):
            log.info("a step of the draft model failed: %s", error)
        else:
            self._give_up(str(error))

    def _give_up(self, why: str) -> None:
        log.warning("the draft model has failed and guesses no more: %s", why)
        self.failure = why
        for request in [follower.request for follower in self._followers.values()]:
            self.leave(request)
        self.pipeline.close()

    # --- requests that go ----------------------------------------------------------------------

    def leave(self, request: Request) -> None:
        """The request has no seat any more; what it has seen of it stays while there is room."""
        follower = self._followers.pop(request.id, None)
        if follower is None:
            return
        if self._unsettled.pop(request.id, None) is not None:
            self._settle(follower)
        self.store.release(follower)

    def forget(self, request: Request) -> None:
        """The request is over."""
        self.leave(request)
        self._foreign.discard(request.id)

    def close(self) -> None:
        """Free the model; idempotent."""
        self.pipeline.close()
