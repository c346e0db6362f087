"""Restart: whether a lost engine is replaced, and how soon, as a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hearthd.errors import DeviceUnavailable

FIRST_DELAY_SECONDS = 0.5
MOST_DELAY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class EngineEnd:
    """How the life of one engine process ended."""

    code: str  # of the error tree or of a backend
    message: str  # why, in words
    served_seconds: float | None  # None: it never got ready
    exit_status: int | None = None  # negative: the signal that ended it; None: unknown
    device: str | None = None  # that it was refused memory on, or was loading on, as it calls it

    @property
    def is_displaced(self) -> bool:
        """It was ended for its device's sake: nothing was wrong with it, or with what it did."""
        return self.code == DeviceUnavailable.code


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How many losses in a row are borne; one that served for the window starts a new row."""

    limit: int = 5
    window_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Replace:
    """Start another engine after a while."""

    delay_seconds: float
    n_losses: int  # in a row


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The model has failed."""

    code: str
    message: str


Decision: TypeAlias = Replace | GiveUp


def after_end(
    end: EngineEnd, policy: RestartPolicy, *, n_losses: int, ever_ready: bool
) -> Decision:
    """What follows the end of an engine; `n_losses` in a row came before it.

    A model that never loaded is not tried again: what was wrong with it still is.
    """
    if not ever_ready:
        return GiveUp(end.code, end.message)
    healthy = end.served_seconds is not None and end.served_seconds >= policy.window_seconds
    n_losses = 1 if healthy else n_losses + 1
    if n_losses >= policy.limit:
        return GiveUp(
            end.code,
            f"lost {n_losses} engines in a row, so no more are started; of the last: {end.message}",
        )
    return Replace(backoff_seconds(n_losses), n_losses)


def backoff_seconds(n_losses: int) -> float:
    """Nothing after the first loss, then twice as long each time."""
    if n_losses <= 1:
        return 0.0
    return min(MOST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** (n_losses - 2))
