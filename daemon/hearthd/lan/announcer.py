"""Announcer: the sole owner of the mDNS responder; keeps what is announced equal to what is so."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from zeroconf import Error, IPVersion, NonUniqueNameException, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from hearthd.lan.card import SERVICE_TYPES, Card, instance_label
from hearthd.lan.interfaces import Reach

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks at what there is to tell, and where."""
RETRY_SECONDS: Final = 10.0
"""After a failure."""
_MOST_NAMESAKES: Final = 50


class Announcer:
    """Announces one box while it should be; an mDNS that fails is told, tried again, and stops nobody."""

    def __init__(
        self,
        card: Callable[[], Card | None],
        reach: Callable[[], Reach],
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """`card` says what to tell now, None: nothing. `reach` is called in a thread: it may block."""
        self._card = card
        self._reach = reach
        self._look_seconds = look_seconds
        self._zeroconf: AsyncZeroconf | None = None
        self._at: Reach | None = None  # where it is announced
        self._told: Card | None = None
        self.label: str | None = None
        """The name it is announced by, which has a number where another box has the same; None: it is not."""
        self.problem: str | None = None
        """Why it is not announced though it should be, in words."""

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        """Announce as long as it lasts, then say goodbye."""
        task = asyncio.create_task(self._keep_on(), name="mDNS")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            try:
                await self._withdraw()
            except (OSError, Error) as error:
                log.warning("mDNS: no goodbye: %s", error)

    async def _keep_on(self) -> None:
        while True:
            try:
                await self.look()
                pause = self._look_seconds
            except (OSError, Error) as error:
                self._tell(str(error) or type(error).__name__)
                pause = RETRY_SECONDS
                await self._give_up()
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Announce, announce anew, or withdraw, as is right now; raises OSError and zeroconf's errors."""
        card = self._card()
        reach = Reach((), ()) if card is None else await asyncio.to_thread(self._reach)
        if card is None or not reach.sources:
            await self._withdraw()
            self.problem = None
            return
        if reach != self._at:
            await self._withdraw()
            self._zeroconf = AsyncZeroconf(
                interfaces=list(reach.sources), ip_version=IPVersion.V4Only
            )
            self._at = reach
        if self._told is None:
            await self._register(card, reach)
        elif card != self._told:
            await self._update(card, reach)
        self.problem = None

    async def _register(self, card: Card, reach: Reach) -> None:
        """Under the first name that is free for all three services."""
        for n in range(1, _MOST_NAMESAKES + 1):
            label = instance_label(card.name, n)
            if await self._try(_services(card, label, reach)):
                self._told, self.label = card, label
                text = "announced as %r by mDNS on %s"
                log.info(text, label, ", ".join(reach.sources), extra={"lan_name": label})
                return
        raise OSError(f"{_MOST_NAMESAKES} boxes on this network are called {card.name!r}")

    async def _try(self, services: list[ServiceInfo]) -> bool:
        """Register all of them or none; False where another box has the name of one."""
        zeroconf = self._open
        outcomes = await asyncio.gather(
            *(zeroconf.async_register_service(service) for service in services),
            return_exceptions=True,
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if not failures:
            return True
        for service, outcome in zip(services, outcomes, strict=True):
            if not isinstance(outcome, BaseException):
                await (await zeroconf.async_unregister_service(service))
        for failure in failures:
            if not isinstance(failure, NonUniqueNameException):
                raise failure
        return False

    async def _update(self, card: Card, reach: Reach) -> None:
        if self.label is None or self._told is None or _moved(card, self._told):
            await self._take_back()
            await self._register(card, reach)
            return
        services = _services(card, self.label, reach)
        await asyncio.gather(*(self._open.async_update_service(service) for service in services))
        self._told = card

    @property
    def _open(self) -> AsyncZeroconf:
        if self._zeroconf is None:
            raise OSError("mDNS is closed")
        return self._zeroconf

    async def _take_back(self) -> None:
        """Say goodbye, and stay open."""
        if self._zeroconf is not None and self._told is not None:
            self._told = self.label = None
            await self._zeroconf.async_unregister_all_services()

    async def _withdraw(self) -> None:
        """Say goodbye and close."""
        try:
            await self._take_back()
        finally:
            await self._give_up()

    async def _give_up(self) -> None:
        zeroconf, self._zeroconf = self._zeroconf, None
        self._at = self._told = self.label = None
        if zeroconf is not None:
            await zeroconf.async_close()

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("mDNS: not announced: %s", problem)
        self.problem = problem


def _services(card: Card, label: str, reach: Reach) -> list[ServiceInfo]:
    packed = [ipaddress.ip_address(address).packed for address in reach.addresses]
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


def _moved(card: Card, told: Card) -> bool:
    """Whether more than a TXT record has changed."""
    return (card.name, card.box_id, card.port) != (told.name, told.box_id, told.port)
