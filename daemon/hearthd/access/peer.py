"""Peer: where a connection comes from, as the kernel says it, and whether that is this machine's own."""

from __future__ import annotations

import grp
import ipaddress
import os
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

OPERATORS: Final = "hearth"
"""The group whose members may do anything over the Unix socket."""

_REMEMBERED: Final = 1024  # addresses: most requests come from few
_CREDENTIALS: Final = struct.Struct("iII")  # pid, uid, gid
_SO_PEERGROUPS: Final = 59  # Linux 4.13; the socket module has no name for it
_MOST_GROUPS: Final = 256  # what Python takes


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process at the other end of a Unix socket, as it was when it connected."""

    pid: int
    uid: int
    gids: frozenset[int]

    def __str__(self) -> str:
        return f"unix uid {self.uid} pid {self.pid}"


@dataclass(frozen=True, slots=True)
class TcpPeer:
    """An address; IPv4 within IPv6 is as it was."""

    host: str

    def __str__(self) -> str:
        return self.host


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom the Unix socket needs no key from: root, these users, and members of these groups."""

    uids: frozenset[int]
    gids: frozenset[int]

    def covers(self, peer: UnixPeer) -> bool:
        """Whether a process is one of them; pure."""
        return peer.uid in self.uids or not self.gids.isdisjoint(peer.gids)


def own_trust() -> Trust:
    """Root, the daemon's own user, and the group `hearth` where there is one. May block."""
    return Trust(frozenset({0, os.geteuid()}), group_ids([OPERATORS]))


def group_ids(names: Collection[str]) -> frozenset[int]:
    """Numbers of those groups that there are. May block."""
    found = set()
    for name in names:
        try:
            found.add(grp.getgrnam(name).gr_gid)
        except KeyError:
            continue
    return frozenset(found)


def peer_of(connection: socket.socket | None, peername: object) -> UnixPeer | TcpPeer | None:
    """The other end of a connection; None where it cannot be told."""
    if connection is not None and connection.family == socket.AF_UNIX:
        return _unix_peer(connection)
    if isinstance(peername, tuple) and peername and isinstance(peername[0], str):
        return TcpPeer(_plain(peername[0]))
    return None


@lru_cache(_REMEMBERED)
def is_loopback(host: str) -> bool:
    """Whether an address is of this machine; a name is none. Pure."""
    try:
        return ipaddress.ip_address(_plain(host)).is_loopback
    except ValueError:
        return False


@lru_cache(_REMEMBERED)
def _plain(host: str) -> str:
    """Without a zone, and IPv4 as such."""
    host = host.partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _unix_peer(connection: socket.socket) -> UnixPeer | None:
    try:
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        pid, uid, gid = _CREDENTIALS.unpack(credentials)
    except OSError:
        return None  # it has gone already
    return UnixPeer(pid, uid, frozenset({gid, *_groups(connection)}))


def _groups(connection: socket.socket) -> tuple[int, ...]:
    """Supplementary groups; none on kernels that do not tell."""
    try:
        packed = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(packed) // 4}I", packed)
