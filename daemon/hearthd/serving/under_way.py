"""Requests under way, as operators see them: who asked for what, and how it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from hearthd.errors import CancelledByOperator
from hearthd.serving.generation import Generation
from hearthd.serving.work import Work

Asked: TypeAlias = Literal["text", "vectors"]


class UnderWay(msgspec.Struct, frozen=True, kw_only=True, rename={"klass": "class"}):
    """One request at one moment; None is not known yet."""

    number: int  # of the daemon: what it is cancelled by
    request_id: str  # as the client knows it
    key: str  # name of the key it came with
    klass: str
    model: str
    asked: Asked
    running: bool  # False: it waits
    n_prompt: int | None
    n_cached: int | None  # of n_prompt, those not computed anew
    n_output: int
    ttft_seconds: float | None
    tokens_per_second: float | None  # after the first token, up to now
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of many requests together."""

    n_prompt: int = 0
    n_output: int = 0


def under_way(work: Work, now: float) -> UnderWay:
    """A request as it is at `now`, of the monotonic clock. Pure."""
    timeline = work.timeline
    first = timeline.first_token_seconds
    known = first is not None
    return UnderWay(
        number=work.rid,
        request_id=work.request_id,
        key=timeline.key,
        klass=timeline.klass,
        model=timeline.model,
        asked="text" if isinstance(work, Generation) else "vectors",
        running=work.running,
        n_prompt=timeline.n_prompt if known else None,
        n_cached=timeline.n_cached if known else None,
        n_output=timeline.n_output,
        ttft_seconds=timeline.ttft_seconds,
        tokens_per_second=_speed(timeline.n_output, first, now),
        age_seconds=max(0.0, now - timeline.arrived_seconds),
    )


def cancelled() -> CancelledByOperator:
    """What the client of a request is told that an operator has ended."""
    return CancelledByOperator("an operator of the box has ended this request")


def _speed(n_output: int, first_seconds: float | None, now: float) -> float | None:
    if first_seconds is None or n_output < 2 or now <= first_seconds:
        return None
    return (n_output - 1) / (now - first_seconds)
