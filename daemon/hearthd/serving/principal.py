"""Principal: on whose behalf a request comes, what that allows; and the keys that prove it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hearthd.config.schema import ANONYMOUS, KeyConfig, RequestClass
from hearthd.errors import Forbidden

LEVELS: Final[Mapping[RequestClass, int]] = {"interactive": 1, "normal": 0, "batch": -1}
"""Priority of each class in an engine; higher goes first."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may take at most; None: as much as there is."""

    concurrency: int | None = None  # requests under way at once
    tokens_per_minute: int | None = None  # of prompts and answers
    deadline_seconds: float | None = None  # of requests that come without one


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request belongs to."""

    name: str
    klass: RequestClass = "interactive"  # the most urgent it may ask for
    default_class: RequestClass = "normal"
    weight: float = 1.0
    limits: KeyLimits = KeyLimits()
    salt: str = ""  # prefixes are shared only among equal salts
    models: frozenset[str] | None = None  # names it may use; None: all

    @property
    def has_limits(self) -> bool:
        """Whether anything but the deadline is limited."""
        return (self.limits.concurrency, self.limits.tokens_per_minute) != (None, None)

    def may_ask_for(self, klass: RequestClass) -> bool:
        """Whether it may send requests of a class."""
        return LEVELS[klass] <= LEVELS[self.klass]

    def may_use(self, model: str) -> bool:
        """Whether it may use the model of this name."""
        return self.models is None or model in self.models

    def check_use(self, model: str) -> None:
        """Raise Forbidden where it may not use the model of this name."""
        if not self.may_use(model):
            raise Forbidden(
                f"the key {self.name} may not use the model {model}",
                param="model",
                code="model_not_allowed",
            )


LOCAL: Final = Principal(ANONYMOUS)
"""Who comes without a key where none is needed: trusted, and with all rights."""


def principal_of(name: str, key: KeyConfig) -> Principal:
    """The principal that a key of the configuration stands for."""
    limits = key.limits
    return Principal(
        name=name,
        klass=key.klass,
        default_class=key.klass,
        weight=key.weight,
        limits=KeyLimits(limits.concurrency, limits.tokens_per_minute, limits.deadline_seconds),
        salt=key.salt,
        models=frozenset(key.models) or None,
    )


class Keyring:
    """The keys of the configuration, known by their hashes only."""

    def __init__(self, keys: Mapping[str, KeyConfig] | None = None) -> None:
        """The hashes are valid and differ."""
        self._principals = [
            (bytes.fromhex(key.hash[-64:]), principal_of(name, key))
            for name, key in (keys or {}).items()
        ]

    def __len__(self) -> int:
        return len(self._principals)

    def find(self, key: str) -> Principal | None:
        """Whose key this is; takes as long for any key, so that time tells nothing."""
        shown = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found: Principal | None = None
        for known, principal in self._principals:
            if hmac.compare_digest(shown, known):
                found = principal
        return found
