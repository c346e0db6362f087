"""DraftGate: guesses of what comes next, made only where they are measured to pay.

Guesses come from the request's own text (prompt lookup: what followed the last time these tokens stood
there), from its grammar, where that leaves one way only, or from a draft model, where the text has
nothing that is as likely to stand. Whether a step carries them is decided anew each step: the measured
cost of a step with that many rows, and of the draft model's, against the tokens that the measured
acceptance promises. At large batches the cost grows with the rows and the gate closes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hearthd.engine.costs import StepCosts
from hearthd.engine.drafting.acceptance import Acceptance
from hearthd.engine.drafting.counters import DraftCounters, Source
from hearthd.engine.drafting.drafter import DraftReport
from hearthd.engine.drafting.lookup import (
    LOOKUP_LENGTHS,
    LOOKUP_PRIORS,
    MAX_LOOKUP_TOKENS,
    PromptLookup,
)
from hearthd.engine.drafting.offer import ModelOffer
from hearthd.engine.drafting.purse import LOOKUP_START, Purse
from hearthd.engine.drafting.widths import MAX_DRAFT_TOKENS, Widths, best_widths
from hearthd.engine.request import Request
from hearthd.engine.step import StepPlan

PLAIN_EVERY = 64
"""Every so many steps one goes without guesses, so that its cost stays known."""
_LEAST_SHARE = 0.2  # of a step's seconds: what remains at least beside the draft model's
_HICCUP = 2.0  # times what a step should take: what is beyond is not the guesses' doing


class Guess(NamedTuple):
    """Tokens that may follow, whose guess they are, and of which kind each is to its source."""

    tokens: list[int]
    source: Source
    kinds: Sequence[int]


_NO_GUESS = Guess([], "lookup", ())


@dataclass(slots=True)
class _Memory:
    """What is remembered of one request."""

    acceptance: Acceptance
    lookup: PromptLookup = field(default_factory=PromptLookup)
    in_flight: Guess = _NO_GUESS


class DraftGate:
    """Proposes drafts for the decoding requests of a step, and learns from what became of them."""

    def __init__(self, offer: ModelOffer | None = None, *, lookup: bool = True) -> None:
        """`offer`: what a draft model has to say. `lookup`: whether a request's own text is asked."""
        self.costs = StepCosts()
        self.counters = DraftCounters()
        self.offer = offer
        self._lookup = lookup
        self._everybody = Acceptance(len(LOOKUP_LENGTHS), priors=LOOKUP_PRIORS)
        self._purse = Purse(LOOKUP_START)  # of what the text foretells
        self._memories: dict[int, _Memory] = {}
        self._n_steps = 0

    # --- before a step -------------------------------------------------------------------------

    def propose(
        self, requests: Sequence[Request], limits: Sequence[int], n_spare: int
    ) -> list[list[int]]:
        """Guesses for each request, at most its limit, together at most n_spare; mostly empty lists."""
        self._n_steps += 1
        none: list[list[int]] = [[] for _ in requests]
        if self._n_steps % PLAIN_EVERY == 0 or not self.costs.known(len(requests)):
            return none
        limits = [min(limit, MAX_LOOKUP_TOKENS) for limit in limits]
        guesses = [self._guess(r, limit) for r, limit in zip(requests, limits, strict=True)]
        offer = self.offer if self.offer is not None and self.offer.is_open else None
        if offer is None and not any(guess.tokens for guess in guesses):
            return none
        chances = [self._chances(r, g) for r, g in zip(requests, guesses, strict=True)]
        carried = best_widths(chances, self.costs, n_spare)
        if offer is not None:
            carried = self._ask(offer, requests, limits, guesses, chances, carried, n_spare)
        for request, guess in zip(requests, guesses, strict=True):
            self._memory(request).in_flight = guess
        return [g.tokens[:width] for g, width in zip(guesses, carried.widths, strict=True)]

    def _guess(self, request: Request, limit: int) -> Guess:
        """What the request itself tells of what comes next."""
        if limit < 1:
            return _NO_GUESS
        if request.grammar is not None:
            forced = request.grammar.forced()[:limit]
            if forced:
                return Guess(forced, "grammar", ())
        if not (self._lookup and self._purse.is_open):
            return _NO_GUESS
        match = self._memory(request).lookup.guess(request.tokens, limit)
        if not match.tokens:
            return _NO_GUESS
        kind = LOOKUP_LENGTHS.index(match.n_context)
        return Guess(match.tokens, "lookup", [kind] * len(match.tokens))

    def _chances(self, request: Request, guess: Guess) -> list[float]:
        """That each of the guessed tokens stands, and all before it."""
        if guess.source == "grammar":
            return [1.0] * len(guess.tokens)
        if not guess.tokens:
            return []
        rate = self._memory(request).acceptance.rate(guess.kinds[0])  # a match is of one kind
        return [rate ** (j + 1) for j in range(len(guess.tokens))]

    def _ask(
        self,
        offer: ModelOffer,
        requests: Sequence[Request],
        limits: Sequence[int],
        guesses: list[Guess],
        chances: list[list[float]],
        carried: Widths,
        n_spare: int,
    ) -> Widths:
        """Put the draft model's guesses in the place of others, where that is worth more."""
        limits = [min(limit, MAX_DRAFT_TOKENS) for limit in limits]
        bid = offer.bid(requests, limits, chances, carried, self.costs, n_spare)
        if bid is None:
            return carried
        widths = list(bid.carried.widths)
        for i, draft in zip(bid.chosen, offer.work(bid, requests), strict=True):
            guesses[i] = Guess(draft, "model", range(len(draft)))
            widths[i] = len(draft)
        return bid.carried._replace(widths=widths)

    # --- after it ------------------------------------------------------------------------------

    def observe(self, plan: StepPlan, n_gained: Sequence[int], seconds: float) -> None:
        """Learn what a step of decoding requests only has cost, and which guesses stood."""
        n_guessed = sum(plan.drafts)
        model_seconds = 0.0 if self.offer is None else self.offer.take_seconds()
        self.counters.seconds_model += model_seconds
        if _only_decodes(plan):
            own_seconds = max(seconds - model_seconds, _LEAST_SHARE * seconds)
            self.costs.observe(len(plan) + n_guessed, own_seconds)
            self._settle(plan, sum(n_gained), own_seconds, model_seconds)
        elif self.offer is not None and model_seconds:
            plain = self.costs.of(len(plan)) or model_seconds
            n_saved = sum(max(0, gained - 1) for gained in n_gained) / len(plan)
            self.offer.settle(n_saved, model_seconds / plain, guessed=True)
        if n_guessed:
            for request, n_drafted, gained in zip(
                plan.requests, plan.drafts, n_gained, strict=True
            ):
                if n_drafted and gained:
                    self._learn(request, n_drafted, gained)

    def _settle(
        self, plan: StepPlan, n_gained: int, own_seconds: float, model_seconds: float
    ) -> None:
        """What a step has brought, against plain ones, goes to whoever guessed."""
        n_rows = len(plan) + sum(plan.drafts)
        plain, expected = self.costs.of(len(plan)), self.costs.of(n_rows)
        if plain is None or expected is None:
            return
        plain_steps = n_gained / len(plan)
        self.counters.observe(own_seconds + model_seconds, plain * plain_steps)
        in_turn = plain * n_rows / len(plan)  # its rows one after the other: none really costs more
        spent = min(own_seconds, _HICCUP * expected, in_turn) + model_seconds
        self._purse.earn(plain_steps)
        if self.offer is not None:
            self.offer.settle(plain_steps, spent / plain, guessed=model_seconds > 0)
        if not model_seconds and self._has_looked_up(plan):
            self._purse.settle(plain_steps - spent / plain)

    def _has_looked_up(self, plan: StepPlan) -> bool:
        """Whether a step had guesses that the text itself made."""
        return any(
            n and memory is not None and memory.in_flight.source == "lookup"
            for n, memory in zip(
                plan.drafts, (self._memories.get(r.id) for r in plan.requests), strict=True
            )
        )

    def _learn(self, request: Request, n_guessed: int, n_gained: int) -> None:
        memory = self._memory(request)
        guess = memory.in_flight
        n_accepted = n_gained - 1
        if n_gained <= n_guessed and request.tokens[-1] == guess.tokens[n_accepted]:
            n_accepted += 1  # the last one stood too: it ends the answer, nothing came after it
        self.counters.count(guess.source, n_guessed, n_accepted)
        if guess.source == "lookup":
            memory.acceptance.observe(guess.kinds[:n_guessed], n_accepted)
        elif guess.source == "model" and self.offer is not None:
            self.offer.learn(request, n_guessed, n_accepted)

    # --- requests that go ----------------------------------------------------------------------

    def leave(self, request: Request) -> None:
        """The request gives up its seat; it may come back."""
        if self.offer is not None:
            self.offer.leave(request)

    def forget(self, request: Request) -> None:
        """The request is over."""
        self._memories.pop(request.id, None)
        if self.offer is not None:
            self.offer.forget(request)

    def report(self) -> DraftReport:
        """What it has brought so far; called from any thread."""
        counters = self.counters
        return DraftReport(
            guessed={str(source): n for source, n in counters.guessed.items()},
            accepted={str(source): n for source, n in counters.accepted.items()},
            gain=counters.gain,
            model_seconds=counters.seconds_model,
            failure=None if self.offer is None else self.offer.model.failure,
        )

    def close(self) -> None:
        """Free the draft model; idempotent."""
        if self.offer is not None:
            self.offer.close()

    def _memory(self, request: Request) -> _Memory:
        memory = self._memories.get(request.id)
        if memory is None:
            memory = _Memory(Acceptance(len(LOOKUP_LENGTHS), self._everybody))
            self._memories[request.id] = memory
        return memory


def _only_decodes(plan: StepPlan) -> bool:
    """Whether a step held decoding requests and their guesses, and no part of a prompt."""
    if plan.is_decode:
        return True
    rows = zip(plan.counts, plan.drafts, plan.samples, plan.scored, strict=True)
    return all(n == 1 + d and samples and not scored for n, d, samples, scored in rows)
