"""ModelOffer: for whom, and how far, a draft model should guess; it pays for its own time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hearthd.engine.costs import StepCosts
from hearthd.engine.drafting.acceptance import Acceptance
from hearthd.engine.drafting.model import DraftModel
from hearthd.engine.drafting.purse import MODEL_START, Purse
from hearthd.engine.drafting.widths import (
    MAX_DRAFT_TOKENS,
    Depth,
    Widths,
    best_depth,
    best_widths,
)
from hearthd.engine.request import Request

LEAST_EXPECTED_TOKENS = 16
"""Of an answer, still to come; one that is longer already is expected to go on for as long again."""
LEAST_ROWS = 16
"""Of tokens that the draft model has not seen: so many are computed in one step, however slow."""
_FIRST_ROWS = 64  # before their cost is known
_UNKNOWN_SHARE = 0.25  # of a plain step: what one of the draft model's is taken to cost at first
_FADES = 0.999  # what is known of acceptance, with each step in which nothing was tried
_TRIAL_SHARE = (
    0.25  # of the purse: what may be spent on following requests to find out what it brings
)
_MOST_SKIPPED = 16  # steps without a look at what the model could bring, when it brought nothing


class Bid(NamedTuple):
    """What the model should do in a step; requests by their index."""

    chosen: list[int]  # to guess for
    n_tokens: int  # for each of them
    recruits: list[int]  # to catch up with, so that it can guess for them later
    carried: Widths  # by all others


class ModelOffer:
    """Decides by acceptance and cost, and keeps the draft model at it."""

    def __init__(self, model: DraftModel) -> None:
        self.model = model
        self.purse = Purse(MODEL_START)
        self._everybody = Acceptance(MAX_DRAFT_TOKENS)
        self._acceptances: dict[int, Acceptance] = {}
        self._plain_seconds = 0.0  # of the step that is being decided on
        self._seconds = 0.0  # that the model took since they were last asked for
        self._n_to_skip = 0
        self._n_skipped_last = 0

    @property
    def is_open(self) -> bool:
        """Whether the model can guess, and there is something to be lost."""
        return self.model.failure is None and self.purse.is_open

    # --- the decision --------------------------------------------------------------------------

    def bid(
        self,
        requests: Sequence[Request],
        limits: Sequence[int],
        chances: Sequence[Sequence[float]],
        carried: Widths,
        cost: StepCosts,
        n_spare: int,
    ) -> Bid | None:
        """What the model should guess; None where the step does better without.

        `chances`: of the guesses that there are already, the widths of which are `carried`. Where one
        is at least as likely to stand as the model's would be, it is left: it costs nothing.
        """
        if self._n_to_skip:
            self._n_to_skip -= 1
            return None
        self._plain_seconds = cost.of(len(requests)) or 0.0
        own = [self._better(*each) for each in zip(requests, limits, chances, strict=True)]
        is_near = [self.model.is_near(request) for request in requests]
        near = [row if is_near[i] else [] for i, row in enumerate(own)]
        depth, others = self._depth(near, chances, cost, n_spare)
        if depth.gain <= carried.gain:
            depth, others = Depth([], 0, carried.gain), carried
        recruits: list[int] = []
        if own != near:
            wider, _ = self._depth(own, chances, cost, n_spare)
            if wider.gain > depth.gain:
                far = [i for i in wider.chosen if not is_near[i]]
                recruits = self._worth_following(requests, far, wider.gain)
        if not depth.chosen and not recruits:
            self._n_skipped_last = min(_MOST_SKIPPED, 1 + 2 * self._n_skipped_last)
            self._n_to_skip = self._n_skipped_last
            return None
        self._n_skipped_last = 0
        return Bid(depth.chosen, depth.n_tokens, recruits, others)

    def _depth(
        self,
        own: Sequence[Sequence[float]],
        chances: Sequence[Sequence[float]],
        cost: StepCosts,
        n_spare: int,
    ) -> tuple[Depth, Widths]:
        """How far the model should guess for those with chances of its own, and what the others carry then."""
        left = [[] if row else theirs for row, theirs in zip(own, chances, strict=True)]
        others = best_widths(left, cost, n_spare)
        n_left = n_spare - sum(others.widths)
        return best_depth(own, others, cost, self._draft_seconds, n_left), others

    def _better(self, request: Request, limit: int, theirs: Sequence[float]) -> list[float]:
        """Chances of the model's guesses for a request, where they are better than those it has."""
        limit = min(limit, self.model.room(request))
        if limit < 1:
            return []
        own = self._acceptance(request).chances(range(limit))
        return own if not theirs or own[0] > theirs[0] else []

    def _draft_seconds(self, n_requests: int) -> float:
        seconds = self.model.costs.of(n_requests)
        return _UNKNOWN_SHARE * self._plain_seconds if seconds is None else seconds

    def _worth_following(
        self, requests: Sequence[Request], far: Sequence[int], gain: float
    ) -> list[int]:
        """Of requests that the model is behind of, those that it should catch up with."""
        token_seconds = self._plain_seconds / len(requests)
        trial_seconds = 0.0
        if not self._everybody.is_known(0):
            trial_seconds = _TRIAL_SHARE * self.purse.balance * self._plain_seconds
        recruits: list[int] = []
        for i in far:
            request = requests[i]
            catch_up_seconds = self.model.n_behind(request) * self._row_seconds
            n_left = request.n_most - len(request.tokens)
            n_expected = min(n_left, max(request.n_output, LEAST_EXPECTED_TOKENS))
            if pays_to_follow(catch_up_seconds, n_expected * token_seconds, gain):
                recruits.append(i)
            elif catch_up_seconds <= trial_seconds:
                trial_seconds -= catch_up_seconds
                recruits.append(i)
        return recruits

    @property
    def _row_seconds(self) -> float:
        """Of a row that catches up."""
        known = self.model.row_seconds
        return self._plain_seconds / _FIRST_ROWS if known is None else known

    # --- at work -------------------------------------------------------------------------------

    def work(self, bid: Bid, requests: Sequence[Request]) -> list[list[int]]:
        """Do what was bid; the guesses for those chosen, at most bid.n_tokens each."""
        began = self.model.clock()
        drafts = self.model.guess([requests[i] for i in bid.chosen], bid.n_tokens)
        if bid.recruits:
            known = self.model.row_seconds
            n_rows = _FIRST_ROWS if known is None else int(self._plain_seconds / known)
            self.model.follow([requests[i] for i in bid.recruits], max(LEAST_ROWS, n_rows))
        self._seconds += self.model.clock() - began
        return drafts

    def take_seconds(self) -> float:
        """Seconds that the model took since this was last asked for."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def settle(self, plain_steps: float, steps_spent: float, *, guessed: bool) -> None:
        """A step has brought the tokens of so many plain ones, and taken the time of so many."""
        self.purse.earn(plain_steps)
        if guessed:
            self.purse.settle(plain_steps - steps_spent)
        else:
            self._everybody.fade(_FADES)

    def learn(self, request: Request, n_guessed: int, n_accepted: int) -> None:
        """Of the model's tokens for a request, so many stood."""
        self._acceptance(request).observe(range(n_guessed), n_accepted)

    def _acceptance(self, request: Request) -> Acceptance:
        known = self._acceptances.get(request.id)
        if known is None:
            known = self._acceptances[request.id] = Acceptance(MAX_DRAFT_TOKENS, self._everybody)
        return known

    # --- requests that go ----------------------------------------------------------------------

    def leave(self, request: Request) -> None:
        """The request gives up its seat; it may come back."""
        self.model.leave(request)

    def forget(self, request: Request) -> None:
        """The request is over."""
        self._acceptances.pop(request.id, None)
        self.model.forget(request)

    def close(self) -> None:
        """Free the model; idempotent."""
        self.model.close()


def pays_to_follow(catch_up_seconds: float, rest_seconds: float, gain: float) -> bool:
    """Whether computing what the model has not seen is worth it for an answer that takes so long yet.

    Half of what may be saved may be spent.
    """
    return catch_up_seconds < rest_seconds * (1.0 - 1.0 / gain) / 2.0
