"""Asked and Found: a request as the cache sees it, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hearthd import wire
from hearthd.cache.control import Directives
from hearthd.cache.counts import Result
from hearthd.cache.source import Source
from hearthd.serving.generation import GenerationRequest
from hearthd.serving.principal import LEVELS, Principal


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as the cache sees it: the choices, and how it is to be answered."""

    requests: Sequence[GenerationRequest]
    seeded: bool  # the client gave a seed
    control: Directives
    wording: bytes  # hash of all that decides how the answer is worded: path and body
    id: str  # that a new answer gets
    created: int  # unix seconds

    @property
    def model(self) -> str:
        return self.requests[0].model

    @property
    def principal(self) -> Principal:
        return self.requests[0].principal

    @property
    def level(self) -> int:
        return LEVELS[self.requests[0].klass]

    @property
    def deadline_seconds(self) -> float | None:
        """On the monotonic clock; the key's own where the request has none."""
        submit, own = self.requests[0].submit, self.principal.limits.deadline_seconds
        if submit.deadline_seconds is None and own is not None:
            return submit.arrived_seconds + own
        return submit.deadline_seconds


@dataclass(slots=True)
class Found:
    """An answer, and how it came to be one."""

    result: Result
    id: str
    created: int  # unix seconds
    info: wire.ModelInfo | None = (
        None  # of the model that answered; unknown yet where it is computed
    )
    source: Source | None = None  # None: `body` is all
    body: bytes | None = None  # as it was worded before
    age_seconds: int | None = None  # of a hit
    similarity: float | None = None  # of a hit whose question has other words
    keep: Callable[[bytes], None] = field(default=lambda body: None)  # told how a hit was worded
