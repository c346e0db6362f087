"""What a box says of its cache of answers; None is what it did not say."""

from __future__ import annotations

import msgspec


class Scope(msgspec.Struct, frozen=True):
    """The answers of one model to those who share them."""

    partition: str
    model: str
    digest: str
    n_answers: int
    n_bytes: int


class Summary(msgspec.Struct, frozen=True):
    """GET /api/v1/cache"""

    enabled: bool
    budget_bytes: int | None = None
    scopes: list[Scope] = []
    results: dict[str, dict[str, int]] = {}
    saved_seconds: dict[str, float] = {}
    saved_tokens: dict[str, int] = {}
    faults: dict[str, int] = {}


class CachedAnswer(msgspec.Struct, frozen=True):
    """One answer, without its text."""

    key: str
    partition: str
    model: str
    digest: str
    question: str
    created: float  # unix seconds
    used: float
    hits: int
    saved_seconds: float
    cost_seconds: float
    n_prompt: int
    n_output: int
    n_bytes: int


class AnswerList(msgspec.Struct, frozen=True):
    """GET /api/v1/cache/answers"""

    answers: list[CachedAnswer]


class Dropped(msgspec.Struct, frozen=True):
    """DELETE /api/v1/cache/answers"""

    dropped: int


class Imported(msgspec.Struct, frozen=True):
    """POST /api/v1/cache/import"""

    read: int
    kept: int


class AuditRow(msgspec.Struct, frozen=True):
    """What one threshold would do; bounds are of 95 %."""

    threshold: float
    hits: int
    hit_rate: float
    hit_low: float
    hit_high: float
    false_hits: int
    false_rate: float
    false_low: float
    false_high: float


class Audit(msgspec.Struct, frozen=True):
    """POST /api/v1/cache/audit"""

    n_same: int
    n_different: int
    refused_same: int
    refused_different: int
    rows: list[AuditRow]
    chosen: float | None = None
