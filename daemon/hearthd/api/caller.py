"""Caller: where a request comes from, and whom it belongs to where it shows no key."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from hearthd.access.attempts import network_of
from hearthd.access.peer import TcpPeer, UnixPeer, is_loopback, peer_of
from hearthd.api.keys import GATE, OPTIONS
from hearthd.serving.principal import ANYBODY, LOCAL, Principal

_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP")
_FOREIGN_SITES: Final = frozenset({"cross-site", "same-site"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request, as far as the connection and the headers tell."""

    origin: str  # for the record
    place: str  # what counts as one where many wrong keys come from
    without_key: Principal | None  # None: it needs a key


def caller_of(request: web.Request) -> Caller:
    """Where a request comes from; any process of this machine is taken for an operator's, but for web pages."""
    peer = _peer_of(request)
    principal = _trusted_as(request, peer)
    if principal is None and request.app[OPTIONS].insecure:
        principal = ANYBODY
    return Caller("unknown" if peer is None else str(peer), _place(peer), principal)


def is_local(request: web.Request) -> bool:
    """Whether a request comes from this machine itself, not through a proxy on it."""
    return _is_of_this_machine(request, _peer_of(request))


def _place(peer: UnixPeer | TcpPeer | None) -> str:
    if isinstance(peer, UnixPeer):
        return f"unix uid {peer.uid}"
    return "unknown" if peer is None else network_of(peer.host)


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


def _trusted_as(request: web.Request, peer: UnixPeer | TcpPeer | None) -> Principal | None:
    """Whom the machine itself vouches for; None: nobody."""
    if not _is_of_this_machine(request, peer):
        return None
    if isinstance(peer, UnixPeer):
        return LOCAL if request.app[GATE].trust.covers(peer) else None
    if not request.app[GATE].trust_loopback:
        return None
    if not _is_of_a_browser(request):
        return LOCAL
    names = request.app[GATE].host_names
    if not names_this_machine(request.headers.get("Host", ""), names):
        return None  # a page whose own name was led here, and which would read the answer
    origin = request.headers.get("Origin")
    is_foreign = request.headers.get("Sec-Fetch-Site") in _FOREIGN_SITES or (
        origin is not None and not names_this_machine(urlsplit(origin).netloc, names)
    )
    return ANYBODY if is_foreign else LOCAL


def _is_of_a_browser(request: web.Request) -> bool:
    headers = request.headers
    return (
        "Origin" in headers
        or "Sec-Fetch-Site" in headers
        or headers.get("User-Agent", "").startswith("Mozilla/")
    )


def names_this_machine(host: str, names: frozenset[str]) -> bool:
    """Whether HOST or HOST:PORT is an address, localhost, or one of these names. Pure."""
    name = host.rpartition("]")[0].removeprefix("[") or host.partition(":")[0]
    name = name.lower().rstrip(".")
    if name in names or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
