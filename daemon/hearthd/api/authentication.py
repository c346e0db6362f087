"""Authentication: whose request this is, by its key or by where it comes from."""

from __future__ import annotations

import logging
import time
from typing import Final

from aiohttp import web

from hearthd.access.keyring import PREFIX, Held, Keyring
from hearthd.api.caller import Caller, caller_of
from hearthd.api.keys import GATE, KEYRING, Gate
from hearthd.errors import TooManyWrongKeys, Unauthorized
from hearthd.serving.principal import Principal

log = logging.getLogger(__name__)

PRINCIPAL = web.RequestKey("principal", Principal)

PRINCIPAL_INFO: Final = "hearthd.principal"
"""Of a connection's transport: on whose behalf the daemon asks itself. No socket's transport has it."""


def authenticate(request: web.Request) -> Principal:
    """Note whose request it is, and return that; raises Unauthorized, TooManyWrongKeys."""
    asker = asker_of(request)
    if asker is not None:
        request[PRINCIPAL] = asker
        return asker
    caller = caller_of(request)
    gate, keyring = request.app[GATE], request.app[KEYRING]
    key = key_of(request.headers.get("Authorization"), keyring, caller.without_key)
    principal = caller.without_key if key is None else _holder(key, keyring, gate, caller)
    assert principal is not None  # key_of has raised
    request[PRINCIPAL] = principal
    return principal


def asker_of(request: web.Request) -> Principal | None:
    """On whose behalf the daemon itself asks; None for what comes from outside."""
    transport = request.transport
    asker = None if transport is None else transport.get_extra_info(PRINCIPAL_INFO)
    return asker if isinstance(asker, Principal) else None


def key_of(
    authorization: str | None, keyring: Keyring, without_key: Principal | None
) -> str | None:
    """The key that a request shows; None where none counts. Pure; raises Unauthorized.

    Without any keys, what clients send as one means nothing, for many cannot be told to send none; but
    one that a box has made was revoked.
    """
    shown = None if authorization is None else _bearer(authorization)
    if not keyring and without_key is not None:
        return shown if shown is not None and shown.startswith(PREFIX) else None
    if not keyring:
        raise Unauthorized(
            "Requests from other machines and through proxies need a key, and there are no keys: say "
            "'hearth keys add NAME' on the box, or set insecure = true",
            code="missing_api_key",
        )
    if authorization is None:
        if without_key is not None:
            return None
        raise Unauthorized(
            "This address needs a key: send the header 'Authorization: Bearer KEY'",
            code="missing_api_key",
        )
    if shown is None:
        raise Unauthorized("The Authorization header must look like 'Bearer KEY'")
    return shown


def _bearer(authorization: str) -> str | None:
    scheme, _, key = authorization.strip().partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _holder(key: str, keyring: Keyring, gate: Gate, caller: Caller) -> Principal:
    """Whose key it is; raises Unauthorized, and TooManyWrongKeys where no more are looked at."""
    held, now = keyring.find(key), time.monotonic()
    place, attempts = caller.place, gate.attempts
    wait_seconds = attempts.wait_seconds(place, now)
    if wait_seconds > 0.0 and not (held is not None and attempts.knows(place, _name(held))):
        raise TooManyWrongKeys(
            f"too many wrong keys came from {caller.origin}: the next one is looked at in "
            f"{wait_seconds:.0f} s",
            retry_after_seconds=wait_seconds,
        )
    if held is None:
        if attempts.wrong(place, now):
            log.warning("many wrong keys from %s: slowed down", caller.origin)
        raise Unauthorized("The key is not one of those that were given out")
    attempts.right(place, _name(held))
    unix_now = keyring.clock()
    if held.expired(unix_now):
        raise Unauthorized(
            f"The key {_name(held)} expired at {held.config.expires:%Y-%m-%d %H:%M %Z}",
            code="key_expired",
        )
    held.last_used = unix_now
    return held.principal


def _name(held: Held) -> str:
    return held.principal.name
