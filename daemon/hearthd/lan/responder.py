"""Responder: the mDNS of one set of addresses; imported only where a box is announced, since zeroconf takes time to load."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager

from zeroconf import Error, IPVersion, NonUniqueNameException, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from hearthd.lan.card import SERVICE_TYPES, Card
from hearthd.lan.interfaces import Reach


class Responder:
    """Open from the start until `close`; its methods raise OSError for whatever goes wrong."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        with _told():
            self._zeroconf = AsyncZeroconf(
                interfaces=list(reach.sources), ip_version=IPVersion.V4Only
            )

    async def register(self, card: Card, label: str) -> bool:
        """Announce all three services or none; False where another box has the name of one."""
        services = self._services(card, label)
        outcomes = await asyncio.gather(
            *(self._zeroconf.async_register_service(service) for service in services),
            return_exceptions=True,
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if not failures:
            return True
        for service, outcome in zip(services, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                await (await self._zeroconf.async_unregister_service(service))
        with _told():
            for failure in failures:
                if not isinstance(failure, NonUniqueNameException):
                    raise failure
        return False

    async def update(self, card: Card, label: str) -> None:
        """Other TXT records for what is announced."""
        with _told():
            services = self._services(card, label)
            await asyncio.gather(*map(self._zeroconf.async_update_service, services))

    async def goodbye(self) -> None:
        """Take everything back."""
        with _told():
            await self._zeroconf.async_unregister_all_services()

    async def close(self) -> None:
        """Without a word."""
        await self._zeroconf.async_close()

    def _services(self, card: Card, label: str) -> list[ServiceInfo]:
        packed = [ipaddress.ip_address(address).packed for address in self.reach.addresses]
        return [
            ServiceInfo(
                service_type,
                f"{label}.{service_type}",
                port=card.port,
                properties=card.texts(service_type),
                server=card.host,
                addresses=packed,
            )
            for service_type in SERVICE_TYPES
        ]


@contextmanager
def _told() -> Iterator[None]:
    """zeroconf's own errors as OSError, in words."""
    try:
        yield
    except Error as error:
        raise OSError(str(error) or type(error).__name__) from error
