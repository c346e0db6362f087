"""Acceptance: how likely a guessed token stands after those before it, as measured, by kind of guess."""

from __future__ import annotations

from collections.abc import Sequence

PRIOR = 0.6
"""What is believed of a kind of guess that was never tried."""
_PRIOR_WEIGHT = 4.0
_KEPT = 0.95  # of what was known of a kind, with each new outcome


class Acceptance:
    """Rates by kind, a small number; of one request, or of all."""

    __slots__ = ("_above", "_priors", "_stood", "_tried")

    def __init__(
        self,
        n_kinds: int,
        above: Acceptance | None = None,
        priors: Sequence[float] | None = None,
    ) -> None:
        """`above`: what is true of all requests is the prior of one; `priors`: of each kind, without."""
        self._above = above
        self._priors = [PRIOR] * n_kinds if priors is None else priors
        self._tried = [0.0] * n_kinds
        self._stood = [0.0] * n_kinds

    def rate(self, kind: int) -> float:
        """Probability that one more token of a kind stands, given that those before it did."""
        prior = self._priors[kind] if self._above is None else self._above.rate(kind)
        return (self._stood[kind] + _PRIOR_WEIGHT * prior) / (self._tried[kind] + _PRIOR_WEIGHT)

    def is_known(self, kind: int) -> bool:
        """Whether what was measured weighs more than what was believed before."""
        return self._tried[kind] > _PRIOR_WEIGHT

    def chances(self, kinds: Sequence[int]) -> list[float]:
        """For each token of a guess, the probability that it and all before it stand."""
        chances: list[float] = []
        chance = 1.0
        for kind in kinds:
            chance *= self.rate(kind)
            chances.append(chance)
        return chances

    def observe(self, kinds: Sequence[int], n_accepted: int) -> None:
        """Take the outcome of one guess, whose tokens were of these kinds; older outcomes fade."""
        tried = kinds[: n_accepted + 1]  # what follows the first miss was not tried
        for kind in set(tried):
            self._tried[kind] *= _KEPT
            self._stood[kind] *= _KEPT
        for i, kind in enumerate(tried):
            self._tried[kind] += 1.0
            self._stood[kind] += i < n_accepted
        if self._above is not None:
            self._above.observe(kinds, n_accepted)

    def fade(self, kept: float) -> None:
        """Believe a little less of what was measured long ago, so that it is tried again."""
        self._tried = [kept * tried for tried in self._tried]
        self._stood = [kept * stood for stood in self._stood]
