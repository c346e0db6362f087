"""MaskBudget: the time that the masks of one output may take, which everybody in its batch waits for."""

from __future__ import annotations

SLOW_MASKS = 5
"""That may cost more before an output is given up: the first ones make what later ones use."""
DEBT_MASKS = 10.0
"""Of so many masks the allowed time, over what was allowed, is too much."""


class MaskBudget:
    """Each mask is allowed some time; what one takes beyond that is a debt, which cheaper ones pay back."""

    __slots__ = ("_debt_seconds", "_n_slow", "allowed_seconds")

    def __init__(self, allowed_seconds: float) -> None:
        self.allowed_seconds = allowed_seconds
        self._debt_seconds = 0.0
        self._n_slow = 0

    def spend(self, seconds: float) -> None:
        """A mask took so long."""
        self._debt_seconds = max(0.0, self._debt_seconds + seconds - self.allowed_seconds)
        self._n_slow += seconds > self.allowed_seconds
        if not self._debt_seconds:
            self._n_slow = 0

    @property
    def is_overdrawn(self) -> bool:
        """Whether the grammar costs too much, and not only now and then."""
        return self._n_slow >= SLOW_MASKS and self._debt_seconds > DEBT_MASKS * self.allowed_seconds
