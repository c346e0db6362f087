"""Wrong keys: slowed down by address, with bounds, and without a loss for right keys."""

from __future__ import annotations

import aiohttp
import pytest
from api_server import ApiServer
from fake_serving import FakeServing

from hearthd.access.attempts import BURST, MOST_ADDRESSES, Attempts, network_of
from hearthd.access.register import Register
from hearthd.api.keys import Gate
from hearthd.config.schema import KeyConfig


def spend(attempts: Attempts, origin: str, now: float) -> list[bool]:
    return [attempts.wrong(origin, now) for _ in range(BURST)]


def test_the_twentieth_wrong_key_is_the_last_for_a_while() -> None:
    attempts = Attempts()
    assert spend(attempts, "a", 0.0) == [False] * (BURST - 1) + [True]
    assert attempts.wait_seconds("a", 0.0) == pytest.approx(3.0)
    assert attempts.wait_seconds("a", 2.0) == pytest.approx(1.0)
    assert attempts.wait_seconds("a", 3.01) == 0.0
    assert attempts.wrong("a", 3.01)  # one, then it waits again
    assert attempts.wait_seconds("a", 3.01) == pytest.approx(2.99)
    assert attempts.wait_seconds("a", 3600.0) == 0.0
    assert attempts.wait_seconds("b", 0.0) == 0.0


def test_memory_is_bounded() -> None:
    attempts = Attempts()
    for i in range(3 * MOST_ADDRESSES):
        attempts.wrong(str(i), 0.0)
        attempts.right(str(i), "k")
    assert len(attempts._spent) == len(attempts._right) == MOST_ADDRESSES
    assert not attempts.knows("0", "k")


def test_one_customer_is_one_address() -> None:
    assert network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert network_of("box") == "box"


async def test_wrong_keys_are_slowed_down_and_right_ones_are_not(
    serving: FakeServing, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    known, _ = await register.give_out("known", KeyConfig(hash=""))
    late, _ = await register.give_out("late", KeyConfig(hash=""))

    async def ask(http: aiohttp.ClientSession, key: str | None) -> tuple[int, str, str | None]:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        async with http.get("/v1/models", headers=headers) as answer:
            code = "" if answer.ok else (await answer.json())["error"]["code"]
            return answer.status, code, answer.headers.get("Retry-After")

    gate = Gate()
    async with ApiServer(serving, register=register, gate=gate) as server, server.http() as http:
        assert (await ask(http, known))[0] == 200
        for i in range(BURST):
            assert await ask(http, f"wrong-{i}") == (401, "invalid_api_key", None)
        for key in ("wrong", late):  # of one that was never right here nobody knows which it is
            status, code, retry = await ask(http, key)
            assert (status, code) == (429, "too_many_wrong_keys")
            assert retry is not None
            assert 1 <= int(retry) <= 3
        for _ in range(5):
            assert (await ask(http, known))[0] == 200
            assert (await ask(http, None))[0] == 200
        assert caplog.text.count("many wrong keys from 127.0.0.1") == 1
        gate.attempts._spent["127.0.0.1"] = (BURST - 1.0, 0.0)  # some time later
        assert (await ask(http, late))[0] == 200
