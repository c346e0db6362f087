"""DraftGate: guesses of what comes next, made only where they are measured to pay.

Guesses come from the request's own text (prompt lookup: what followed the last time these tokens stood
there), or from its grammar, where that leaves one way only. Whether a step carries them is decided anew
each step: the measured cost of a step with that many rows, against the tokens that the measured
acceptance promises. At large batches the cost grows with the rows and the gate closes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from hearthd.engine.costs import StepCosts
from hearthd.engine.request import Request
from hearthd.engine.step import StepPlan

LOOKUP_LENGTHS = (8, 5, 3, 2)
"""Tokens of context that have to match, longest first."""
MAX_DRAFT_TOKENS = 8
LEAST_GAIN = 1.03
"""What drafting must promise over not drafting; below it a step carries no guesses."""
PLAIN_EVERY = 64
"""Every so many steps one goes without guesses, so that its cost stays known."""
_PRIOR_ACCEPTANCE = 0.6
_PRIOR_WEIGHT = 4.0


class Drafter(Protocol):
    """Guesses what comes next, and hears what became of it."""

    def propose(
        self, requests: Sequence[Request], limits: Sequence[int], n_spare: int
    ) -> list[list[int]]:
        """Guesses for each request, at most its limit, together at most n_spare; mostly empty lists."""

    def observe(self, plan: StepPlan, n_gained: Sequence[int], seconds: float) -> None:
        """A step was committed: tokens each of its requests gained, and how long it took."""

    def forget(self, request: Request) -> None:
        """The request is over."""


class Guess(NamedTuple):
    """Tokens that may follow, and how many tokens of context led to them."""

    tokens: list[int]
    n_context: int


_NO_GUESS = Guess([], 0)
_CERTAIN = 0
"""The context of a guess that a grammar forces."""


class PromptLookup:
    """Where each run of tokens last stood in one request; grows with its tokens."""

    __slots__ = ("_n_indexed", "_places")

    def __init__(self) -> None:
        self._places: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in LOOKUP_LENGTHS)
        self._n_indexed = 0

    def guess(self, tokens: Sequence[int], limit: int) -> Guess:
        """At most `limit` tokens that followed the longest match of the end of `tokens`."""
        self._index(tokens)
        for n, places in zip(LOOKUP_LENGTHS, self._places, strict=True):
            if len(tokens) <= n:
                continue
            place = places.get(tuple(tokens[-n:]))
            if place is not None:
                return Guess(_continue(tokens, place, limit), n)
        return _NO_GUESS

    def _index(self, tokens: Sequence[int]) -> None:
        """Note every run that ends before the last token: the last one has nothing after it yet."""
        for n, places in zip(LOOKUP_LENGTHS, self._places, strict=True):
            for end in range(max(n, self._n_indexed + 1), len(tokens)):
                places[tuple(tokens[end - n : end])] = end
        self._n_indexed = max(self._n_indexed, len(tokens) - 1)


def _continue(tokens: Sequence[int], place: int, limit: int) -> list[int]:
    """What follows a place; a match that runs into the end repeats itself (a period)."""
    found = list(tokens[place : place + limit])
    period = len(tokens) - place
    while len(found) < limit:
        found.append(found[len(found) - period])
    return found


class Acceptance:
    """How likely a guess stands, by the length of the context that led to it; of one request or of all."""

    __slots__ = ("_above", "_stood", "_tried")

    def __init__(self, above: Acceptance | None = None) -> None:
        self._above = above  # what is true of all requests is the prior of one
        self._tried = [0.0] * len(LOOKUP_LENGTHS)
        self._stood = [0.0] * len(LOOKUP_LENGTHS)

    def rate(self, n_context: int) -> float:
        """Probability that one more guessed token stands, given that those before it did."""
        i = LOOKUP_LENGTHS.index(n_context)
        prior = _PRIOR_ACCEPTANCE if self._above is None else self._above.rate(n_context)
        return (self._stood[i] + _PRIOR_WEIGHT * prior) / (self._tried[i] + _PRIOR_WEIGHT)

    def observe(self, n_context: int, n_guessed: int, n_accepted: int) -> None:
        """Take the outcome of one guess; older outcomes fade."""
        i = LOOKUP_LENGTHS.index(n_context)
        n_tried = min(n_guessed, n_accepted + 1)  # what follows the first miss was not tried
        self._tried[i] = 0.95 * self._tried[i] + n_tried
        self._stood[i] = 0.95 * self._stood[i] + n_accepted
        if self._above is not None:
            self._above.observe(n_context, n_guessed, n_accepted)


@dataclass(slots=True)
class DraftCounters:
    """Totals since the engine started."""

    n_guessed: int = 0
    n_accepted: int = 0
    seconds_spent: float = 0.0  # in decoding steps, with guesses or without
    seconds_plain: float = 0.0  # what the same tokens would have cost without guesses


@dataclass(slots=True)
class _Memory:
    """What is remembered of one request."""

    lookup: PromptLookup
    acceptance: Acceptance
    n_context: int = 0  # of the guess in flight


def best_widths(
    rates: Sequence[float], lengths: Sequence[int], cost: StepCosts, n_spare: int
) -> list[int]:
    """How many guessed tokens each request should carry, so that tokens for each second are most.

    Tokens are added one by one, the likeliest first; of all those prefixes the best is taken, if it
    promises LEAST_GAIN over no guesses at all.
    """
    n_requests = len(rates)
    nothing = [0] * n_requests
    plain_seconds = cost.of(n_requests)
    if plain_seconds is None:
        return nothing
    candidates = sorted(
        ((rate ** (j + 1), i) for i, rate in enumerate(rates) for j in range(lengths[i])),
        key=lambda candidate: -candidate[0],
    )[:n_spare]
    best, best_gain = 0, LEAST_GAIN
    tokens = float(n_requests)
    for m, (chance, _) in enumerate(candidates, start=1):
        tokens += chance
        seconds = cost.of(n_requests + m)
        if seconds is None:
            break
        gain = (tokens / seconds) / (n_requests / plain_seconds)
        if gain > best_gain:
            best, best_gain = m, gain
        if not cost.known(n_requests + m):
            break  # one step into the unknown at a time
    widths = nothing
    for _, i in candidates[:best]:
        widths[i] += 1
    return widths


def _only_decodes(plan: StepPlan) -> bool:
    """Whether a step held decoding requests and their guesses, and no part of a prompt."""
    if plan.is_decode:
        return True
    rows = zip(plan.counts, plan.drafts, plan.samples, plan.scored, strict=True)
    return all(n == 1 + d and samples and not scored for n, d, samples, scored in rows)


class DraftGate:
    """Proposes drafts for the decoding requests of a step, and learns from what became of them."""

    def __init__(self) -> None:
        self.costs = StepCosts()
        self.counters = DraftCounters()
        self._everybody = Acceptance()
        self._memories: dict[int, _Memory] = {}
        self._n_steps = 0

    def propose(
        self, requests: Sequence[Request], limits: Sequence[int], n_spare: int
    ) -> list[list[int]]:
        """Guesses for each request, at most its limit, together at most n_spare; mostly empty lists."""
        self._n_steps += 1
        none: list[list[int]] = [[] for _ in requests]
        if self._n_steps % PLAIN_EVERY == 0 or not self.costs.known(len(requests)):
            return none
        guesses = [
            self._guess(request, min(limit, MAX_DRAFT_TOKENS)) if limit > 0 else _NO_GUESS
            for request, limit in zip(requests, limits, strict=True)
        ]
        if not any(guess.tokens for guess in guesses):
            return none
        rates = [
            self._rate(request, guess) for request, guess in zip(requests, guesses, strict=True)
        ]
        widths = best_widths(rates, [len(g.tokens) for g in guesses], self.costs, n_spare)
        for request, guess in zip(requests, guesses, strict=True):
            self._memory(request).n_context = guess.n_context
        return [guess.tokens[:width] for guess, width in zip(guesses, widths, strict=True)]

    def _guess(self, request: Request, limit: int) -> Guess:
        if request.grammar is not None:
            forced = request.grammar.forced()[:limit]
            if forced:
                return Guess(forced, _CERTAIN)
        return self._memory(request).lookup.guess(request.tokens, limit)

    def _rate(self, request: Request, guess: Guess) -> float:
        """Probability that each of the guessed tokens stands after those before it."""
        if not guess.tokens:
            return 0.0
        if guess.n_context == _CERTAIN:
            return 1.0
        return self._memory(request).acceptance.rate(guess.n_context)

    def observe(self, plan: StepPlan, n_gained: Sequence[int], seconds: float) -> None:
        """Learn the cost of a step of decoding requests only, and which guesses stood."""
        if not _only_decodes(plan):
            return
        n_guessed = sum(plan.drafts)
        self.costs.observe(len(plan) + n_guessed, seconds)
        self.counters.seconds_spent += seconds
        plain = self.costs.of(len(plan))
        if plain is not None:
            self.counters.seconds_plain += plain * sum(n_gained) / len(plan)
        if not n_guessed:
            return
        for request, n_drafted, gained in zip(plan.requests, plan.drafts, n_gained, strict=True):
            if n_drafted and gained:
                self._learn(request, n_drafted, gained - 1)

    def _learn(self, request: Request, n_guessed: int, n_accepted: int) -> None:
        self.counters.n_guessed += n_guessed
        self.counters.n_accepted += n_accepted
        memory = self._memory(request)
        if memory.n_context != _CERTAIN:
            memory.acceptance.observe(memory.n_context, n_guessed, n_accepted)

    def forget(self, request: Request) -> None:
        """The request is over."""
        self._memories.pop(request.id, None)

    def _memory(self, request: Request) -> _Memory:
        memory = self._memories.get(request.id)
        if memory is None:
            memory = _Memory(PromptLookup(), Acceptance(self._everybody))
            self._memories[request.id] = memory
        return memory
