"""Boxes on the network, found by mDNS."""

from __future__ import annotations

import ipaddress
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from hearth_tui.errors import BoxUnreachable

if TYPE_CHECKING:
    from zeroconf import Zeroconf

SERVICE_TYPE: Final = "_hearth._tcp.local."
LISTEN_SECONDS: Final = 2.0
NAME_SECONDS: Final = 4.0
"""To find a box that was called by its name."""
_ANSWER_MILLISECONDS: Final = 1500


class FoundBox(msgspec.Struct, frozen=True):
    """What a box says of itself; nobody vouches for it."""

    name: str
    url: str
    addresses: list[str]
    version: str | None
    models: list[str]
    n_models: int | None
    needs_key: bool | None
    fingerprint: str | None  # of its certificate; None: no TLS
    box_id: str | None


def discover(seconds: float = LISTEN_SECONDS) -> list[FoundBox]:
    """The boxes that answer in this time, by name; raises BoxUnreachable where mDNS cannot be spoken."""
    with _answers(seconds) as answers:
        found = {box.box_id or box.name: box for box in answers}
    return sorted(found.values(), key=lambda box: box.name.casefold())


def find_box(name: str, seconds: float = NAME_SECONDS) -> FoundBox:
    """The box of this name, or with this id; raises BoxUnreachable naming those that there are."""
    others: list[str] = []
    with _answers(seconds) as answers:
        for box in answers:
            if name.casefold() in (box.name.casefold(), box.box_id):
                return box
            others.append(box.name)
    known = f"; there is {', '.join(sorted(set(others)))}" if others else ""
    raise BoxUnreachable(f"no box called {name!r} on this network{known}")


@contextmanager
def _answers(seconds: float) -> Iterator[Iterator[FoundBox]]:
    from zeroconf import Error, IPVersion, ServiceBrowser, ServiceStateChange, Zeroconf

    names: queue.SimpleQueue[str] = queue.SimpleQueue()

    def hear(
        zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is not ServiceStateChange.Removed:
            names.put(name)

    try:
        zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
    except (OSError, Error) as error:
        raise BoxUnreachable(f"mDNS cannot be spoken here: {error}") from None
    try:
        ServiceBrowser(zeroconf, SERVICE_TYPE, handlers=[hear])
        yield _resolved(zeroconf, names, time.monotonic() + seconds)
    finally:
        zeroconf.close()


def _resolved(
    zeroconf: Zeroconf, names: queue.SimpleQueue[str], until: float
) -> Iterator[FoundBox]:
    while (left := until - time.monotonic()) > 0:
        try:
            name = names.get(timeout=left)
        except queue.Empty:
            return
        info = zeroconf.get_service_info(SERVICE_TYPE, name, _ANSWER_MILLISECONDS)
        if info is not None and info.port:
            addresses = _usable(info.parsed_addresses())
            if addresses:
                yield describe(
                    name.removesuffix(f".{SERVICE_TYPE}"),
                    addresses,
                    info.port,
                    info.decoded_properties,
                )


def describe(name: str, addresses: list[str], port: int, texts: dict[str, str | None]) -> FoundBox:
    """A box from its records; `addresses`: at least one, the best first. Pure."""
    scheme = "https" if texts.get("tls") == "yes" else "http"
    host = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
    n_models = texts.get("n_models") or ""
    return FoundBox(
        name,
        f"{scheme}://{host}:{port}",
        addresses,
        texts.get("version"),
        [model for model in (texts.get("models") or "").split(",") if model],
        int(n_models) if n_models.isdecimal() else None,
        {"key": True, "none": False}.get(texts.get("auth") or ""),
        texts.get("fp") if scheme == "https" else None,
        texts.get("id"),
    )


def _usable(addresses: list[str]) -> list[str]:
    """IPv4 first; none that needs a scope."""
    known = [ipaddress.ip_address(a.partition("%")[0]) for a in addresses]
    plain = [a for a in known if a.version == 4 or not a.is_link_local]
    return [str(a) for a in sorted(plain, key=lambda a: a.version)]
