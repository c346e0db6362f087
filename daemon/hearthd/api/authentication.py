"""Authentication: whose request this is, by its key or by where it comes from."""

from __future__ import annotations

import ipaddress
import socket

from aiohttp import web

from hearthd.api.keys import KEYRING, OPTIONS
from hearthd.errors import Unauthorized
from hearthd.serving.principal import LOCAL, Keyring, Principal

PRINCIPAL = web.RequestKey("principal", Principal)

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
"""Answered to anybody: what starts and watches the daemon has no key."""

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


def authenticate(request: web.Request) -> None:
    """Note whose request it is; raises Unauthorized."""
    options = request.app[OPTIONS]
    if request.path not in OPEN_PATHS:
        request[PRINCIPAL] = principal_of(
            request.headers.get("Authorization"),
            request.app[KEYRING],
            trusted=options.insecure or is_local(request),
        )


def principal_of(authorization: str | None, keyring: Keyring, *, trusted: bool) -> Principal:
    """Whom an Authorization header stands for; pure. Raises Unauthorized.

    `trusted`: no key is needed. Without any key in the configuration, what clients send as one means
    nothing: many cannot be told to send none.
    """
    if not keyring and trusted:
        return LOCAL
    if not keyring:
        raise Unauthorized(
            "Requests from other machines and through proxies need a key, and there are no keys: add "
            "[keys.NAME] to the configuration, or set insecure = true",
            code="missing_api_key",
        )
    if authorization is None:
        if trusted:
            return LOCAL
        raise Unauthorized(
            "This address needs a key: send the header 'Authorization: Bearer KEY'",
            code="missing_api_key",
        )
    scheme, _, key = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("The Authorization header must look like 'Bearer KEY'")
    principal = keyring.find(key.strip())
    if principal is None:
        raise Unauthorized("The key is not one of those that were given out")
    return principal


def is_local(request: web.Request) -> bool:
    """Whether the request comes from this machine itself, not through a proxy on it."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    transport = request.transport
    if transport is None:
        return False
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        return True
    return is_loopback_peer(transport.get_extra_info("peername"))


def is_loopback_peer(peer: object) -> bool:
    """Whether an address as sockets give it is of this machine; pure."""
    if not isinstance(peer, tuple) or not peer or not isinstance(peer[0], str):
        return False
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
