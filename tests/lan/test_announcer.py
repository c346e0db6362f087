"""A box announced by a real responder on loopback, and found by `hearth` there."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from hearthd.lan.announcer import Announcer
from hearthd.lan.card import SERVICE_TYPES, Card
from hearthd.lan.interfaces import Reach

CARD = Card("Ember test", "0123abcd", 4327, "0.1.0", ("canary",), True, None)
LOOPBACK = Reach(("127.0.0.1",), ("127.0.0.1",))


class Box:
    """An announcer, and what it is told."""

    def __init__(self, card: Card | None = CARD, reach: Reach = LOOPBACK) -> None:
        self.card = card
        self.reach = reach
        self.announcer = Announcer(lambda: self.card, lambda: self.reach, look_seconds=0.05)

    async def until(self, label: str | None) -> None:
        async with asyncio.timeout(10):
            while self.announcer.label != label:  # noqa: ASYNC110  # no event tells of it
                await asyncio.sleep(0.02)


async def seen(
    label: str, service_type: str = SERVICE_TYPES[0], *, milliseconds: int = 5000
) -> dict[str, str | None] | None:
    """The TXT record of a service, for one who has just come; None where nobody answers for it."""
    stranger = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    try:
        info = AsyncServiceInfo(service_type, f"{label}.{service_type}")
        if not await info.async_request(stranger.zeroconf, milliseconds):
            return None
        assert info.parsed_addresses() == ["127.0.0.1"]
        assert info.server == "hearth-0123abcd.local."
        return info.decoded_properties
    finally:
        await stranger.async_close()


async def test_all_three_services_until_goodbye() -> None:
    box = Box()
    async with box.announcer.announcing():
        await box.until("Ember test")
        for service_type in SERVICE_TYPES:
            texts = await seen("Ember test", service_type)
            assert texts == CARD.texts(service_type)
        box.card = replace(CARD, models=("canary", "qwen"))
        async with asyncio.timeout(10):
            while (await seen("Ember test") or {}).get("models") != "canary,qwen":
                pass
    assert box.announcer.label is None
    assert await seen("Ember test", milliseconds=700) is None


async def test_a_box_of_the_same_name_has_a_number() -> None:
    first, second = Box(), Box(replace(CARD, port=4328))
    async with first.announcer.announcing():
        await first.until("Ember test")
        async with second.announcer.announcing():
            await second.until("Ember test (2)")
            for service_type in SERVICE_TYPES:
                assert await seen("Ember test (2)", service_type) is not None


async def test_what_is_not_to_be_told_is_taken_back() -> None:
    box = Box()
    async with box.announcer.announcing():
        await box.until("Ember test")
        box.card = None
        await box.until(None)
        box.card = CARD
        await box.until("Ember test")
        box.reach = Reach((), ())
        await box.until(None)
        assert box.announcer.problem is None


async def test_a_failure_is_told_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Reach:
        raise OSError(98, "Address already in use")

    announcer = Announcer(lambda: CARD, fail)
    async with announcer.announcing(), asyncio.timeout(10):
        while announcer.problem is None:  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0.02)
    assert "mDNS: not announced" in caplog.text
