"""Vitals: whether an engine still lives, as a pure judgement over its signs of life."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """Where an engine process is in its life."""

    LOADING = "loading"
    SERVING = "serving"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence is borne."""

    heartbeat_seconds: float = 5.0
    step_timeout_seconds: float = 300.0
    load_timeout_seconds: float = 600.0
    stop_seconds: float = 5.0


@dataclass(slots=True)
class Vitals:
    """What was last heard of an engine; moments on the monotonic clock."""

    phase: Phase
    sign_seconds: float  # of the latest frame
    step_age_seconds: float | None = None  # in the latest beat
    stop_by_seconds: float | None = None  # once asked to stop
    deaf: bool = False  # it closed its socket, or sent what is no frame


def cause_of_death(vitals: Vitals, patience: Patience, now: float) -> str | None:
    """Why an engine must be killed now, in words; None while it may live."""
    silence = now - vitals.sign_seconds
    if vitals.stop_by_seconds is not None:
        if now >= vitals.stop_by_seconds:
            return "did not stop when asked"
        return None
    if vitals.deaf and silence > DEAF_SECONDS:
        return "closed its socket without ending"
    if vitals.phase is Phase.LOADING:
        if silence > patience.load_timeout_seconds:
            return f"made no progress in loading for {patience.load_timeout_seconds:g} s"
        return None
    if silence > patience.heartbeat_seconds:
        return f"gave no sign of life for {patience.heartbeat_seconds:g} s"
    age = vitals.step_age_seconds
    if age is not None and age > patience.step_timeout_seconds:
        return f"hung in one step for {age:.0f} s"
    return None


DEAF_SECONDS = 1.0
"""For an engine to end after it closed its socket, which is how it leaves."""
