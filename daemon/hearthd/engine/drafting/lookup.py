"""PromptLookup: what followed the last time the end of a text stood in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LOOKUP_LENGTHS = (8, 5, 3, 2)
"""Tokens of context that have to match, longest first."""
LOOKUP_PRIORS = (0.9, 0.8, 0.7, 0.6)
"""For each length: what is believed of a guess before any was tried."""
MAX_LOOKUP_TOKENS = 15
"""Of one guess: with the row before them a multiple of what processors compute at a time."""


class Match(NamedTuple):
    """Tokens that may follow, and how many tokens of context led to them."""

    tokens: list[int]
    n_context: int


NO_MATCH = Match([], 0)


class PromptLookup:
    """Where each run of tokens last stood in one request; grows with its tokens."""

    __slots__ = ("_n_indexed", "_places")

    def __init__(self) -> None:
        self._places: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in LOOKUP_LENGTHS)
        self._n_indexed = 0

    def guess(self, tokens: Sequence[int], limit: int) -> Match:
        """At most `limit` tokens that followed the longest match of the end of `tokens`."""
        self._index(tokens)
        for n, places in zip(LOOKUP_LENGTHS, self._places, strict=True):
            if len(tokens) <= n:
                continue
            place = places.get(tuple(tokens[-n:]))
            if place is not None:
                return Match(_continue(tokens, place, limit), n)
        return NO_MATCH

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
