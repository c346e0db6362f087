"""Sockets: who holds a port, as /proc tells it."""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from typing import Final, Literal

from hearthd.hardware.tree import Tree

_LISTENS: Final = "0A"
_UNIT: Final = re.compile(r"/([^/]+\.service)(?:/|$)")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process with a socket; None: it cannot be told, for it belongs to somebody else."""

    pid: int | None = None
    name: str | None = None
    unit: str | None = None  # systemd's

    def __str__(self) -> str:
        if self.pid is None:
            return "another process"
        return f"{self.name} (pid {self.pid}{f', {self.unit}' if self.unit else ''})"


def holder_of(
    tree: Tree, protocol: Literal["tcp", "udp"], port: int, host: str | None = None
) -> Holder | None:
    """Who listens on a port at an address (None: any), or on all of them; None: nobody. Blocks."""
    for name in (protocol, f"{protocol}6"):
        for line in tree.lines(f"proc/net/{name}")[1:]:
            fields = line.split()
            if len(fields) < 10 or (protocol == "tcp" and fields[3] != _LISTENS):
                continue
            address, _, text = fields[1].rpartition(":")
            if int(text, 16) == port and _overlap(_address(address), host):
                return _holder(tree, fields[9])
    return None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel writes each word of 32 bits in the machine's order, mostly little endian."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    return ipaddress.ip_address(struct.pack(f"<{len(words)}I", *words))


def _overlap(taken: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str | None) -> bool:
    try:
        wanted = None if host is None else ipaddress.ip_address(host)
    except ValueError:
        return True  # a name may be any of them
    return wanted is None or wanted.is_unspecified or taken.is_unspecified or wanted == taken


def _holder(tree: Tree, inode: str) -> Holder:
    link = f"socket:[{inode}]"
    for pid in tree.names("proc"):
        if pid.isdecimal() and any(
            tree.target(f"proc/{pid}/fd/{fd}") == link for fd in tree.names(f"proc/{pid}/fd")
        ):
            unit = _UNIT.search(tree.text(f"proc/{pid}/cgroup") or "")
            return Holder(int(pid), tree.text(f"proc/{pid}/comm"), unit[1] if unit else None)
    return Holder()
