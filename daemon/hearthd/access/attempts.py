"""Attempts: wrong keys by the address they came from; after many of them, that address has to wait."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from typing import Any, Final

BURST: Final = 20
"""Wrong keys that an address may show at once."""
PER_SECOND: Final = 1 / 3
"""That flow in again."""
MOST_ADDRESSES: Final = 4096
"""Remembered; the one that was heard of longest ago is forgotten for a new one."""


class Attempts:
    """A key that was right at an address lately stays so, however many wrong ones come from there."""

    def __init__(self) -> None:
        self._spent: OrderedDict[str, tuple[float, float]] = OrderedDict()  # wrong keys, as of when
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()  # place and key's name

    def wait_seconds(self, place: str, now: float) -> float:
        """Until this address may show a key that it has not shown before; 0: now."""
        excess = self._level(place, now) - (BURST - 1)
        return max(0.0, excess / PER_SECOND)

    def wrong(self, place: str, now: float) -> bool:
        """Count a wrong key; returns whether the address has to wait from now on."""
        had_to_wait = self.wait_seconds(place, now) > 0.0
        self._spent[place] = (self._level(place, now) + 1.0, now)
        self._spent.move_to_end(place)
        _shrink(self._spent)
        return not had_to_wait and self.wait_seconds(place, now) > 0.0

    def right(self, place: str, name: str) -> None:
        """A key was right."""
        self._right[place, name] = None
        self._right.move_to_end((place, name))
        _shrink(self._right)

    def knows(self, place: str, name: str) -> bool:
        """Whether a key was right at this address lately."""
        return (place, name) in self._right

    def _level(self, place: str, now: float) -> float:
        n, at = self._spent.get(place, (0.0, now))
        return max(0.0, n - max(0.0, now - at) * PER_SECOND)


@lru_cache(1024)
def network_of(host: str) -> str:
    """What counts as one address: of IPv6 the network that one customer has. Pure."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False))


def _shrink(remembered: OrderedDict[Any, Any]) -> None:
    while len(remembered) > MOST_ADDRESSES:
        remembered.popitem(last=False)
