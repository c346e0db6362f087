"""Announcer: what is announced is what is so; the sole owner of the responder."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

from hearthd.lan.card import Card, instance_label
from hearthd.lan.interfaces import Reach
from hearthd.tasks import going_on

if TYPE_CHECKING:
    from hearthd.lan.responder import Responder

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
        self._responder: Responder | None = None
        self._told: Card | None = None
        self.label: str | None = None
        """The name it is announced by, which has a number where another box has the same; None: it is not."""
        self.problem: str | None = None
        """Why it is not announced though it should be, in words."""

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        """Announce as long as it lasts, then say goodbye."""
        try:
            async with going_on(self._keep_on(), "mDNS"):
                yield
        finally:
            try:
                await self._withdraw()
            except OSError as error:
                log.warning("mDNS: no goodbye: %s", error)

    async def _keep_on(self) -> None:
        while True:
            try:
                await self.look()
                pause = self._look_seconds
            except OSError as error:
                self._tell(str(error))
                pause = RETRY_SECONDS
                await self._give_up()
            await asyncio.sleep(pause)

    async def look(self) -> None:
        """Announce, announce anew, or withdraw, as is right now; raises OSError."""
        card = self._card()
        reach = Reach((), ()) if card is None else await asyncio.to_thread(self._reach)
        if card is None or not reach.sources:
            await self._withdraw()
        else:
            if self._responder is not None and self._responder.reach != reach:
                await self._withdraw()
            await self._announce(card, reach)
        self.problem = None

    async def _announce(self, card: Card, reach: Reach) -> None:
        if self._responder is None:
            module = await asyncio.to_thread(import_module, "hearthd.lan.responder")
            self._responder = module.Responder(reach)
        responder = self._responder
        if self._told is not None and _moved(card, self._told):
            await self._take_back(responder)
        if self._told is None or self.label is None:
            self.label = await self._register(responder, card)
            text = "announced as %r by mDNS on %s"
            log.info(text, self.label, ", ".join(reach.sources), extra={"lan_name": self.label})
        elif card != self._told:
            await responder.update(card, self.label)
        self._told = card

    async def _register(self, responder: Responder, card: Card) -> str:
        """The first name that is free for all services, which they have now."""
        for n in range(1, _MOST_NAMESAKES + 1):
            label = instance_label(card.name, n)
            if await responder.register(card, label):
                return label
        raise OSError(f"{_MOST_NAMESAKES} boxes on this network are called {card.name!r}")

    async def _take_back(self, responder: Responder) -> None:
        """Say goodbye, and stay open."""
        self._told = self.label = None
        await responder.goodbye()

    async def _withdraw(self) -> None:
        """Say goodbye and close."""
        try:
            if self._responder is not None and self._told is not None:
                await self._take_back(self._responder)
        finally:
            await self._give_up()

    async def _give_up(self) -> None:
        responder, self._responder = self._responder, None
        self._told = self.label = None
        if responder is not None:
            await responder.close()

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("mDNS: not announced: %s", problem)
        self.problem = problem


def _moved(card: Card, told: Card) -> bool:
    """Whether more than a TXT record has changed."""
    return (card.name, card.box_id, card.port) != (told.name, told.box_id, told.port)
