"""Principal: on whose behalf a request comes, and what that allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from hearthd.config.schema import ANONYMOUS, KeyConfig, RequestClass, Role
from hearthd.errors import Forbidden

LEVELS: Final[Mapping[RequestClass, int]] = {"interactive": 1, "normal": 0, "batch": -1}
"""Priority of each class in an engine; higher goes first."""

Right: TypeAlias = Literal["open", "read", "watch", "use", "batch", "admin"]
"""What an address needs: nothing; to look at the box; at what others do; to have something computed; to leave
work for later; to change what counts for others."""

RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    "readonly": frozenset({"open", "read", "watch"}),
    "user": frozenset({"open", "read", "use", "batch"}),
    "batch": frozenset({"open", "read", "use", "batch"}),  # and never more urgent than batch
    "operator": frozenset({"open", "read", "watch", "use", "batch", "admin"}),
}


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
    role: Role = "user"

    @property
    def is_operator(self) -> bool:
        """Whether it looks after the box: what belongs to others is its business too."""
        return self.role == "operator"

    @property
    def has_limits(self) -> bool:
        """Whether anything but the deadline is limited."""
        return (self.limits.concurrency, self.limits.tokens_per_minute) != (None, None)

    def check_right(self, right: Right) -> None:
        """Raise Forbidden where its role has not this right."""
        if right not in RIGHTS[self.role]:
            having = " or ".join(role for role, rights in RIGHTS.items() if right in rights)
            raise Forbidden(
                f"{self.name} has the role {self.role}; this takes {having}",
                code="role_not_allowed",
            )

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


LOCAL: Final = Principal(ANONYMOUS, role="operator")
"""Who comes without a key from this machine itself: trusted, and with all rights."""

ANYBODY: Final = Principal(ANONYMOUS)
"""Who comes without a key from elsewhere, where the configuration says `insecure`: no operator."""


def principal_of(name: str, key: KeyConfig) -> Principal:
    """The principal that a key stands for."""
    limits = key.limits
    klass: RequestClass = "batch" if key.role == "batch" else key.klass
    return Principal(
        name=name,
        klass=klass,
        default_class=klass,
        weight=key.weight,
        limits=KeyLimits(limits.concurrency, limits.tokens_per_minute, limits.deadline_seconds),
        salt=key.salt,
        models=frozenset(key.models) or None,
        role=key.role,
    )
