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
    probe_seconds: float = 5.0


@dataclass(slots=True)
class Vitals:
    """What was last heard of an engine; moments on the monotonic clock."""

    phase: Phase
    sign_seconds: float  # of the latest frame
    step_age_seconds: float | None = None  # in the latest beat
    beat_seconds: float = 0.0  # when that came
    n_steps: int = 0  # in the latest beat
    proof_seconds: float | None = None  # of the latest token, or other work that was done
    asked_seconds: float | None = None  # of the first probe that it has not answered
    asked_again_seconds: float = 0.0  # of the latest probe
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
    asked = vitals.asked_seconds
    if asked is not None and age is None and now - asked > patience.step_timeout_seconds:
        return f"computed nothing for {now - asked:.0f} s, though it was asked to"
    return None


def why_not_answering(vitals: Vitals, now: float) -> str | None:
    """Why an engine that serves cannot be said to answer now, in words; None where it does.

    A token is proof, and so is any step that was done: an engine that is busy and gets on is well.
    """
    silence = now - vitals.sign_seconds
    if silence > SILENCE_SECONDS:
        return f"the engine has given no sign of life for {silence:.1f} s"
    if vitals.proof_seconds is None:
        return "the engine has not computed its first token yet"
    age = vitals.step_age_seconds
    if age is not None:
        age += now - vitals.beat_seconds
        return None if age <= SLOW_STEP_SECONDS else f"the engine is in one step for {age:.0f} s"
    asked = vitals.asked_seconds
    if asked is not None and now - asked > ANSWER_SECONDS:
        return f"the engine was asked for a token {now - asked:.1f} s ago and has computed none"
    return None


def must_be_asked(vitals: Vitals, patience: Patience, now: float) -> bool:
    """Whether a probe is due: nothing proves that it answers, and it has not been asked just now."""
    latest = max(vitals.proof_seconds or 0.0, vitals.asked_again_seconds)
    return vitals.phase is Phase.SERVING and now - latest >= patience.probe_seconds


SILENCE_SECONDS = 3.0
"""Three beats: an engine that was stopped in its tracks is not ready any more."""
ANSWER_SECONDS = 4.0
"""For an idle engine to compute the token that it was asked for."""
SLOW_STEP_SECONDS = 30.0
"""A step that takes longer may never end."""
DEAF_SECONDS = 1.0
"""For an engine to end after it closed its socket, which is how it leaves."""
