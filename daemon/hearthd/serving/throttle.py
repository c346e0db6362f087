"""Throttle: which share of its seats a model may use, by heat, power and the hour; pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hearthd.config.schema import PowerConfig

HALVE_SECONDS = 10.0
"""Between two halvings: a heat sink takes its time to follow."""
RELIEF_SECONDS = 30.0
"""Well below the limits for so long, before the share is doubled."""
MOST_RELIEF_SECONDS = 900.0
"""As long as that wait becomes, where each doubling was too much."""
COOL_BY_CELSIUS = 5.0
"""Well below: by so many degrees."""
COOL_BY_WATTS = 0.1
"""Well below: by that part of the cap."""
LEAST_SHARE = 1 / 64


@dataclass(frozen=True, slots=True)
class Strain:
    """What is measured of a model's devices and of the box; None is unknown."""

    hottest_celsius: float | None = None
    box_watts: float | None = None


@dataclass(frozen=True, slots=True)
class Throttle:
    """What measurements leave of a model's seats, and since when."""

    share: float = 1.0
    reason: str = ""  # while the share is under 1
    changed_seconds: float = -math.inf
    cool_since_seconds: float | None = None  # well below all limits
    relief_seconds: float = RELIEF_SECONDS
    rose: bool = False  # at the last change


def next_throttle(before: Throttle, strain: Strain, limits: PowerConfig, now: float) -> Throttle:
    """Half the seats while a limit is passed, twice as many once all is well below for a while.

    Between the two nothing changes, and a doubling that was too much is tried again only after twice the
    wait: so the share does not swing with what it causes.
    """
    over = _passed(strain, limits)
    if over:
        if now - before.changed_seconds < HALVE_SECONDS:
            return replace(before, cool_since_seconds=None)
        wait = before.relief_seconds * (2 if before.rose else 1)
        share = max(LEAST_SHARE, before.share / 2)
        return Throttle(share, over, now, relief_seconds=min(wait, MOST_RELIEF_SECONDS))
    if before.share >= 1.0:
        return before if now - before.changed_seconds < MOST_RELIEF_SECONDS else Throttle()
    if not _is_cool(strain, limits):
        return replace(before, cool_since_seconds=None)
    since = now if before.cool_since_seconds is None else before.cool_since_seconds
    if now - since < before.relief_seconds:
        return replace(before, cool_since_seconds=since)
    share = min(1.0, before.share * 2)
    return Throttle(
        share,
        before.reason if share < 1.0 else "",
        now,
        cool_since_seconds=now if share < 1.0 else None,
        relief_seconds=before.relief_seconds,
        rose=True,
    )


def is_quiet(spans: Iterable[str], minute: int) -> bool:
    """Whether a minute of the day lies in one of "HH:MM-HH:MM", which may go over midnight."""
    return any(_holds(*_minutes(span), minute) for span in spans)


def _passed(strain: Strain, limits: PowerConfig) -> str:
    """Which limits are passed, in words; empty: none."""
    celsius, watts = strain.hottest_celsius, strain.box_watts
    reasons = []
    if limits.celsius is not None and celsius is not None and celsius > limits.celsius:
        reasons.append(f"{celsius:.0f} °C of {limits.celsius:.0f} °C")
    if limits.watts is not None and watts is not None and watts > limits.watts:
        reasons.append(f"{watts:.0f} W of {limits.watts:.0f} W")
    return ", ".join(reasons)


def _is_cool(strain: Strain, limits: PowerConfig) -> bool:
    """Whether everything that is limited is well below; what is unknown is not in the way."""
    celsius, watts = strain.hottest_celsius, strain.box_watts
    warm = limits.celsius is not None and (celsius or 0.0) > limits.celsius - COOL_BY_CELSIUS
    busy = limits.watts is not None and (watts or 0.0) > limits.watts * (1 - COOL_BY_WATTS)
    return not warm and not busy


def _minutes(span: str) -> tuple[int, int]:
    return int(span[:2]) * 60 + int(span[3:5]), int(span[6:8]) * 60 + int(span[9:])


def _holds(first: int, end: int, minute: int) -> bool:
    if first <= end:
        return first <= minute < end
    return minute >= first or minute < end
