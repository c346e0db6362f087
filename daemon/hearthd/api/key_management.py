"""Keys at run time: list them, give one out, take one back; and the record of what operators did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec
from aiohttp import web
from msgspec import Meta

from hearthd.access.action import Action
from hearthd.access.keyring import Held, KeySource
from hearthd.api import body
from hearthd.api.access import describe
from hearthd.api.keys import KEYRING, REGISTER
from hearthd.api.numbers import whole_number
from hearthd.api.response import json_response
from hearthd.config.schema import KeyConfig, KeyLimitsConfig, RequestClass, Role, Weight
from hearthd.errors import InvalidRequest

MOST_LISTED: Final = 10_000


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, rename={"klass": "class"}):
    """A key to be given out; what its fields mean is said in [keys.NAME] of the configuration."""

    name: str
    role: Role = "user"
    klass: RequestClass = "normal"
    weight: Weight = 1.0
    limits: KeyLimitsConfig = KeyLimitsConfig()
    salt: str = ""
    cache_group: str = ""
    models: tuple[str, ...] = ()
    expires: Annotated[datetime, Meta(tz=True)] | None = None
    expires_seconds: Annotated[float, Meta(gt=0, le=1e10)] | None = None  # from now, in its place


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True, rename={"klass": "class"}):
    """A key as it may be shown: nothing of the key itself."""

    name: str
    source: KeySource
    role: Role
    klass: RequestClass
    weight: float
    limits: KeyLimitsConfig
    models: tuple[str, ...]
    created: float | None  # unix seconds
    expires: float | None
    expired: bool
    last_used: float | None  # since the daemon started


class KeyList(msgspec.Struct, frozen=True):
    """Every key that counts, expired ones too."""

    keys: list[KeyInfo]


class NewKey(msgspec.Struct, frozen=True):
    """A key that was given out; `key` is shown this once."""

    key: str
    info: KeyInfo


class Revoked(msgspec.Struct, frozen=True):
    """A key that opens nothing any more, and how many of its requests were under way."""

    name: str
    requests_ended: int
    keys_left: int


class ActionList(msgspec.Struct, frozen=True):
    """What operators did, the newest first."""

    actions: list[Action]


_decoder = msgspec.json.Decoder(KeyRequest)


async def list_keys(request: web.Request) -> web.Response:
    """GET /api/v1/keys"""
    keyring = request.app[KEYRING]
    now = keyring.clock()
    return json_response(KeyList([_info(held, now) for held in keyring.held]))


async def add_key(request: web.Request) -> web.Response:
    """POST /api/v1/keys"""
    asked = await body.read(request, _decoder)
    describe(request, f"{asked.name} as {asked.role}")
    register = request.app[REGISTER]
    now = register.keyring.clock()
    key, held = await register.give_out(asked.name, _config(asked, now))
    return json_response(
        NewKey(key, _info(held, now)), status=201, headers={"Cache-Control": "no-store"}
    )


async def revoke_key(request: web.Request) -> web.Response:
    """DELETE /api/v1/keys/{name}"""
    name = request.match_info["name"]
    describe(request, name)
    n_ended = await request.app[REGISTER].take_back(name)
    return json_response(Revoked(name, n_ended, len(request.app[KEYRING])))


async def list_actions(request: web.Request) -> web.Response:
    """GET /api/v1/audit"""
    limit = whole_number(request.query.get("limit", "100"), "limit", 1, MOST_LISTED)
    return json_response(ActionList(await request.app[REGISTER].actions(limit)))


def _config(asked: KeyRequest, unix_now: float) -> KeyConfig:
    """As [keys.NAME] would say it, without a hash yet."""
    expires = asked.expires
    if asked.expires_seconds is not None:
        if expires is not None:
            raise InvalidRequest("expires_seconds: not beside expires", param="expires_seconds")
        expires = datetime.fromtimestamp(unix_now, UTC) + timedelta(seconds=asked.expires_seconds)
    same = {name: getattr(asked, name) for name in _SAME}
    return KeyConfig(hash="", expires=expires, **same)


_SAME: Final = ("role", "klass", "weight", "limits", "salt", "cache_group", "models")


def _info(held: Held, unix_now: float) -> KeyInfo:
    config = held.config
    return KeyInfo(
        name=held.principal.name,
        source=held.source,
        role=config.role,
        klass=held.principal.klass,
        weight=config.weight,
        limits=config.limits,
        models=config.models,
        created=held.created,
        expires=None if config.expires is None else config.expires.timestamp(),
        expired=held.expired(unix_now),
        last_used=held.last_used,
    )
