"""Prober: the request of one token that shows that an idle engine still answers.

It goes on from what was served last: those tokens are in memory still, so nothing has to make room for
it, and what it adds is taken back. The prefixes that wait there for their next turn stay as they are.
"""

from __future__ import annotations

from copy import deepcopy

from hearth_backends.base import SamplingParams
from hearth_backends.kv.contract import BLOCK_TOKENS, KVStore
from hearth_backends.kv.hashing import HashChain
from hearthd.engine.request import Limits, Request

MOST_ROWS = 2 * BLOCK_TOKENS
"""To be computed for a probe; where more of the last request has left memory, it starts from nothing."""
_GREEDY = SamplingParams(temperature=0.0)


class Prober:
    """Remembers what was served last, and makes probes of it."""

    def __init__(self, store: KVStore, *, digest: str, first_token: int, context: int) -> None:
        """`first_token`: what a probe begins with that has nothing to go on from."""
        self._store = store
        self._digest = digest
        self._first_token = first_token
        self._context = context
        self._last: tuple[list[int], HashChain] | None = None

    def note(self, request: Request) -> None:
        """A request has ended, and is about to leave."""
        if request.shares and BLOCK_TOKENS <= len(request.tokens) < self._context:
            self._last = request.tokens, request.chain

    def request(self, rid: int) -> Request:
        """A probe for the scheduler."""
        if self._last is not None:
            tokens, chain = self._last
            probe = _probe(rid, list(tokens), deepcopy(chain))
            n_matched = self._store.match(probe)
            self._store.release(probe)  # the scheduler matches anew when it admits
            if len(tokens) - n_matched <= MOST_ROWS:
                return probe
            self._last = None
        alone = _probe(rid, [self._first_token], HashChain(self._digest))
        alone.shares = False
        return alone

    def take_back(self, probe: Request) -> None:
        """What a probe has added leaves memory; it has no step in flight."""
        if probe.shares and probe.n_computed > probe.n_cached:
            self._store.truncate(probe, probe.n_cached)


def _probe(rid: int, tokens: list[int], chain: HashChain) -> Request:
    return Request(
        id=rid,
        tokens=tokens,
        n_prompt=len(tokens),
        params=_GREEDY,
        limits=Limits(max_output=1),
        chain=chain,
    )
