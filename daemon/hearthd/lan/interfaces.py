"""Interfaces: which networks a box announces itself on; never those of containers, tunnels and machines inside it."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

NET: Final = Path("/sys/class/net")

_INNER_PREFIXES: Final = (
    "docker", "veth", "br-", "virbr", "vnet", "cni", "flannel", "cali", "lxc", "lxd", "podman", "vmnet",
    "vboxnet", "tailscale", "wg", "zt", "tun", "tap", "kube", "nodelocaldns", "dummy",
)  # fmt: skip
_ETHERNET: Final = 1  # ARPHRD_ETHER, which wireless interfaces say, too


@dataclass(frozen=True, slots=True)
class Interface:
    """What is known of one network interface."""

    name: str
    addresses: tuple[str, ...]  # IPv4 and IPv6 without a scope
    is_up: bool = True
    is_loopback: bool = False
    is_multicast: bool = True
    is_ethernet: bool = True
    is_tunnel: bool = False
    is_bridge: bool = False
    joins_hardware: bool = False  # a bridge with a port that is a device


@dataclass(frozen=True, slots=True)
class Reach:
    """Where a box is announced: the addresses it multicasts from, and those it can be reached at."""

    sources: tuple[str, ...]  # IPv4
    addresses: tuple[str, ...]


def choose(interfaces: Iterable[Interface], wanted: Sequence[str], listen_host: str) -> Reach:
    """Addresses for a daemon that listens on `listen_host`; `wanted` names interfaces, none: real ones.

    Announced by IPv4 multicast only; IPv6 addresses of the same interfaces are told in it.
    """
    bound = _bound_to(listen_host)
    sources: list[str] = []
    addresses: list[str] = []
    for interface in interfaces:
        if not (interface.name in wanted if wanted else is_outer(interface)):
            continue
        if not interface.is_up or interface.is_loopback:
            continue
        known = [ipaddress.ip_address(a) for a in interface.addresses]
        v4 = [a for a in known if a.version == 4 and not a.is_loopback]
        if not v4 or (bound is not None and bound not in known):
            continue
        sources.append(str(v4[0]))
        told = known if bound is None else [bound]
        addresses += [str(a) for a in told if not a.is_link_local or a.version == 4]
    return Reach(tuple(sources), tuple(addresses))


def is_outer(interface: Interface) -> bool:
    """Whether others than this machine itself are likely to be on it."""
    if interface.is_loopback or interface.is_tunnel or not interface.is_multicast:
        return False
    if not interface.is_ethernet:
        return False
    if interface.is_bridge:
        return interface.joins_hardware
    return not interface.name.startswith(_INNER_PREFIXES)


def look(net: Path = NET) -> tuple[Interface, ...]:
    """The interfaces there are now; reads files and asks the kernel, for a few milliseconds."""
    states = psutil.net_if_stats()
    found = []
    for name, addresses in sorted(_addresses().items()):
        state = states.get(name)
        flags = () if state is None or not state.isup else (*state.flags.split(","), "up")
        found.append(_describe(name, addresses, flags, net / name))
    return tuple(found)


def _addresses() -> Mapping[str, tuple[str, ...]]:
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: tuple(
            entry.address.partition("%")[0] for entry in entries if entry.family in families
        )
        for name, entries in psutil.net_if_addrs().items()
    }


def _describe(
    name: str, addresses: tuple[str, ...], flags: Sequence[str], folder: Path
) -> Interface:
    return Interface(
        name,
        addresses,
        is_up="up" in flags,
        is_loopback="loopback" in flags,
        is_multicast="multicast" in flags,
        is_ethernet=_kind(folder) == _ETHERNET,
        is_tunnel=(folder / "tun_flags").exists(),
        is_bridge=(folder / "bridge").exists(),
        joins_hardware=any((port / "device").exists() for port in _ports(folder / "brif")),
    )


def _ports(folder: Path) -> list[Path]:
    """The interfaces that a bridge joins."""
    try:
        return [folder.parent.parent / port.name for port in folder.iterdir()]
    except OSError:
        return []


def _kind(folder: Path) -> int | None:
    try:
        return int((folder / "type").read_text())
    except (OSError, ValueError):
        return None


def _bound_to(listen_host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The one address that is listened on; None for all of them, and for a host's name."""
    try:
        address = ipaddress.ip_address(listen_host.strip("[]"))
    except ValueError:
        return None
    return None if address.is_unspecified else address
