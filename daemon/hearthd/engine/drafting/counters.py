"""DraftCounters: what guessing has brought since the engine started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Source: TypeAlias = Literal["lookup", "model", "grammar"]
"""Whose guess it was: the request's own text, a draft model, or a grammar that leaves one way only."""
SOURCES: tuple[Source, ...] = ("lookup", "model", "grammar")
_KEPT = 0.998  # of the recent seconds, with each step


def _zeros() -> dict[Source, int]:
    return dict.fromkeys(SOURCES, 0)


@dataclass(slots=True)
class DraftCounters:
    """Guessed and accepted tokens by source; seconds of decoding, and what they would have been."""

    guessed: dict[Source, int] = field(default_factory=_zeros)
    accepted: dict[Source, int] = field(default_factory=_zeros)
    seconds_spent: float = 0.0  # in decoding steps, with guesses or without
    seconds_plain: float = 0.0  # what the same tokens would have cost without guesses
    seconds_model: float = 0.0  # of seconds_spent, those of the draft model
    _recent_spent: float = 0.0
    _recent_plain: float = 0.0

    def count(self, source: Source, n_guessed: int, n_accepted: int) -> None:
        """One guess has been tried."""
        self.guessed[source] += n_guessed
        self.accepted[source] += n_accepted

    def observe(self, spent: float, plain: float) -> None:
        """One decoding step: its seconds, and those of plain steps for the same tokens."""
        self.seconds_spent += spent
        self.seconds_plain += plain
        self._recent_spent = _KEPT * self._recent_spent + spent
        self._recent_plain = _KEPT * self._recent_plain + plain

    @property
    def gain(self) -> float | None:
        """Tokens per second over what they would be without guesses, lately; None before any was decoded."""
        return self._recent_plain / self._recent_spent if self._recent_spent else None
