"""Entry: a kept answer, and what is known of it without unpacking it."""

from __future__ import annotations

from typing import Final

import msgspec

from hearthd.cache.fingerprint import Scope

OVERHEAD_BYTES: Final = 300
"""Of a row and its places in indexes: counted with the answer."""
QUESTION_CHARS: Final = 200


class Entry(msgspec.Struct, frozen=True):
    """What the database has of one answer."""

    key: bytes
    scope: Scope
    created: float  # unix seconds
    cost_seconds: float  # that it took to compute
    n_prompt: int
    n_output: int
    question: str  # its last words, cut, for people
    body: bytes  # a packed Recording

    @property
    def n_bytes(self) -> int:
        """That it counts for against the budget."""
        return len(self.body) + len(self.question) + OVERHEAD_BYTES


class Listed(msgspec.Struct, frozen=True):
    """An answer as people see it in a list."""

    key: str  # hexadecimal
    partition: str
    model: str
    digest: str
    question: str
    created: float
    used: float
    hits: int
    saved_seconds: float  # by all hits together
    cost_seconds: float
    n_prompt: int
    n_output: int
    n_bytes: int


class ScopeSum(msgspec.Struct, frozen=True):
    """What one scope holds."""

    partition: str
    model: str
    digest: str
    n_answers: int
    n_bytes: int
