"""Authentication: whose request this is, by its key or by where it comes from."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from hearthd.access.attempts import origin_of
from hearthd.access.keyring import Held, Keyring
from hearthd.access.peer import TcpPeer, UnixPeer, is_loopback, peer_of
from hearthd.api.keys import GATE, KEYRING, OPTIONS, Gate
from hearthd.errors import TooManyWrongKeys, Unauthorized
from hearthd.serving.principal import ANYBODY, LOCAL, Principal

log = logging.getLogger(__name__)

PRINCIPAL = web.RequestKey("principal", Principal)

_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP")
_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from, and whom it would belong to without a key; None: it needs one."""

    origin: str  # for the record
    without_key: Principal | None


def authenticate(request: web.Request) -> Principal:
    """Note whose request it is, and return that; raises Unauthorized, TooManyWrongKeys."""
    caller = caller_of(request)
    gate, keyring = request.app[GATE], request.app[KEYRING]
    key = key_of(request.headers.get("Authorization"), keyring, caller.without_key)
    principal = caller.without_key if key is None else _holder(key, keyring, gate, caller.origin)
    assert principal is not None  # key_of has raised
    request[PRINCIPAL] = principal
    return principal


def caller_of(request: web.Request) -> Caller:
    """Who sends a request, as far as the connection and the headers tell without a key."""
    peer = _peer_of(request)
    trusted = _is_trusted(request, peer)
    without_key = LOCAL if trusted else ANYBODY if request.app[OPTIONS].insecure else None
    return Caller("unknown" if peer is None else str(peer), without_key)


def key_of(
    authorization: str | None, keyring: Keyring, without_key: Principal | None
) -> str | None:
    """The key that a request shows; None where none counts. Pure; raises Unauthorized.

    Without any keys, what clients send as one means nothing: many cannot be told to send none.
    """
    if not keyring and without_key is not None:
        return None
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
    scheme, _, key = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("The Authorization header must look like 'Bearer KEY'")
    return key.strip()


def _holder(key: str, keyring: Keyring, gate: Gate, origin: str) -> Principal:
    """Whose key it is; raises Unauthorized, and TooManyWrongKeys where no more are looked at."""
    held, now = keyring.find(key), time.monotonic()
    place, attempts = origin_of(origin), gate.attempts
    wait_seconds = attempts.wait_seconds(place, now)
    if wait_seconds > 0.0 and not (held is not None and attempts.knows(place, _name(held))):
        raise TooManyWrongKeys(
            f"too many wrong keys came from {origin}: the next one is looked at in "
            f"{wait_seconds:.0f} s",
            retry_after_seconds=wait_seconds,
        )
    if held is None:
        if attempts.wrong(place, now):
            log.warning("many wrong keys from %s: slowed down", origin, extra={"origin": origin})
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


def is_local(request: web.Request) -> bool:
    """Whether a request comes from this machine itself, not through a proxy on it."""
    return _is_of_this_machine(request, _peer_of(request))


def _peer_of(request: web.Request) -> UnixPeer | TcpPeer | None:
    transport = request.transport
    if transport is None:
        return None
    connection: socket.socket | None = transport.get_extra_info("socket")
    return peer_of(connection, transport.get_extra_info("peername"))


def _is_of_this_machine(request: web.Request, peer: UnixPeer | TcpPeer | None) -> bool:
    if any(name in request.headers for name in _FORWARDED):
        return False
    return isinstance(peer, UnixPeer) or (isinstance(peer, TcpPeer) and is_loopback(peer.host))


def _is_trusted(request: web.Request, peer: UnixPeer | TcpPeer | None) -> bool:
    """Whether what is of this machine is of its operators: no other user's process, and no web page."""
    if not _is_of_this_machine(request, peer):
        return False
    if isinstance(peer, UnixPeer):
        return request.app[GATE].trust.covers(peer)
    return request.headers.get("Sec-Fetch-Site") not in _FOREIGN_SITES and _names_this_machine(
        request.headers.get("Host"), request.app[GATE].host_names
    )


def _names_this_machine(host: str | None, names: frozenset[str]) -> bool:
    """Whether a Host header names this machine; a page whose own name was led here does not."""
    if host is None:
        return True  # no browser leaves it out
    name = host.rpartition("]")[0].removeprefix("[") or host.partition(":")[0]
    name = name.lower().rstrip(".")
    if name in names or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
