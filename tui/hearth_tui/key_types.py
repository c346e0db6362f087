"""What a box says of its keys and of what operators did; None is what it did not say."""

from __future__ import annotations

import msgspec


class KeyLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one key may take at most."""

    concurrency: int | None = None
    tokens_per_minute: int | None = None
    deadline_seconds: float | None = None


class NewKeyRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"klass": "class"}
):
    """POST /api/v1/keys; what is not given is as the box has it."""

    name: str
    role: str | None = None
    klass: str | None = None
    weight: float | None = None
    limits: KeyLimits = KeyLimits()
    salt: str | None = None
    models: list[str] = []
    expires: str | None = None
    expires_seconds: float | None = None


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True, rename={"klass": "class"}):
    """A key, without itself."""

    name: str
    source: str | None = None
    role: str | None = None
    klass: str | None = None
    weight: float | None = None
    limits: KeyLimits = KeyLimits()
    models: list[str] = []
    created: float | None = None  # unix seconds
    expires: float | None = None
    expired: bool = False
    last_used: float | None = None


class KeyList(msgspec.Struct, frozen=True):
    """GET /api/v1/keys"""

    keys: list[KeyInfo]


class NewKey(msgspec.Struct, frozen=True):
    """A key that was given out; only now is it told."""

    key: str
    info: KeyInfo


class Revoked(msgspec.Struct, frozen=True):
    """DELETE /api/v1/keys/NAME"""

    name: str
    requests_ended: int = 0
    keys_left: int | None = None


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an operator did or tried."""

    at: float  # unix seconds
    who: str
    origin: str
    action: str
    detail: str = ""
    status: int
    request_id: str = ""


class ActionList(msgspec.Struct, frozen=True):
    """GET /api/v1/audit"""

    actions: list[Action]
