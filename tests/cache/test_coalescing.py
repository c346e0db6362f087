"""Coalescing: equal requests under way are computed once, for all who ask and as long as one of them reads."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
from cached import Cached, asked_for, text_of
from fake_serving import FakeServing

from hearthd import wire
from hearthd.errors import DeadlineExceeded, EngineFailed, Overloaded
from hearthd.serving.principal import KeyLimits, Principal


class Gate:
    """A script that says a word each time it is opened, and how many runs of it there are."""

    def __init__(self, n_words: int = 5) -> None:
        self.n_words = n_words
        self.n_begun = 0
        self._opened = asyncio.Semaphore(0)

    def open(self, n: int = 1) -> None:
        for _ in range(n):
            self._opened.release()

    async def __call__(self, submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        self.n_begun += 1
        for i in range(self.n_words):
            await self._opened.acquire()
            last = i == self.n_words - 1
            yield wire.Delta(
                rid=submit.rid,
                text=f"{i}",
                tokens=[i],
                finish="stop" if last else None,
                usage=wire.Usage(3, i + 1, 0) if last else None,
            )


@pytest.fixture
def gate(serving: FakeServing) -> Gate:
    serving.script = gate = Gate()
    return gate


def asking(cached: Cached, question: str = "a", **terms: object) -> asyncio.Task[tuple[str, str]]:
    return asyncio.create_task(cached.ask(question, **terms))  # type: ignore[arg-type]


async def turns(n: int = 20) -> None:
    """Let the database's threads and the loop do what they can."""
    for _ in range(n):
        await asyncio.sleep(0.005)


async def test_many_ask_and_one_is_computed(cached: Cached, gate: Gate) -> None:
    asked = [asking(cached) for _ in range(20)]
    await turns()
    gate.open(3)
    await turns()
    asked += [asking(cached) for _ in range(5)]  # they read from the beginning
    await turns()
    gate.open(2)
    answers = await asyncio.gather(*asked)
    assert [text for _, text in answers] == ["01234"] * 25
    assert sorted(result for result, _ in answers) == ["COALESCED"] * 24 + ["MISS"]
    assert gate.n_begun == 1
    await cached.settled()
    assert await cached.ask("a") == ("HIT", "01234")


async def test_readers_that_leave_end_nothing_for_the_others(
    cached: Cached, gate: Gate, serving: FakeServing
) -> None:
    first, second, third = (asking(cached) for _ in range(3))
    await turns()
    gate.open(2)
    await turns()
    first.cancel()  # whoever began it
    second.cancel()
    await turns()
    gate.open(3)
    assert (await third)[1] == "01234"
    assert serving.left == []


async def test_the_last_reader_that_leaves_ends_it(
    cached: Cached, gate: Gate, serving: FakeServing
) -> None:
    asked = [asking(cached) for _ in range(3)]
    await turns()
    gate.open(2)
    await turns()
    for task in asked:
        task.cancel()
    await serving.lost(1)
    gate.open(10)
    again = asking(cached)
    assert (await again)[0] == "MISS"
    assert gate.n_begun == 2


async def test_one_that_leaves_at_once_leaves_nothing_behind(
    cached: Cached, gate: Gate, serving: FakeServing
) -> None:
    async with cached.answer(asked_for("a")) as found:
        assert found.result == "MISS"
    await serving.lost(1)
    assert cached.cache._flights == {}


async def test_clients_that_come_and_go_at_random_get_all_or_have_left(
    cached: Cached, gate: Gate, serving: FakeServing
) -> None:
    rng = random.Random(7)
    gate.n_words = 30
    stayed: list[asyncio.Task[tuple[str, str]]] = [asking(cached)]
    await turns()
    for _ in range(30):
        for _ in range(rng.randrange(4)):
            task = asking(cached)
            if rng.random() < 0.6:
                asyncio.get_running_loop().call_later(rng.random() / 20, task.cancel)
            else:
                stayed.append(task)
        gate.open()
        await asyncio.sleep(0.002)
    whole = "".join(map(str, range(30)))
    assert {text for _, text in await asyncio.gather(*stayed)} == {whole}
    assert gate.n_begun == 1
    assert serving.left == []


async def test_who_is_more_urgent_does_not_wait_for_who_is_less(cached: Cached, gate: Gate) -> None:
    batch = asking(cached, klass="batch")
    await turns()
    urgent = asking(cached, klass="interactive")
    await turns()
    assert gate.n_begun == 2
    normal = asking(cached)  # joins the urgent one
    await turns()
    gate.open(10)
    assert [(await task)[0] for task in (batch, urgent, normal)] == ["MISS", "MISS", "COALESCED"]


async def test_a_deadline_ends_who_has_it_and_nobody_else(cached: Cached, gate: Gate) -> None:
    patient = asking(cached)
    await turns()
    hasty = asking(cached, deadline_seconds=time.monotonic() + 0.1)
    with pytest.raises(DeadlineExceeded):
        await hasty
    gate.open(5)
    assert (await patient)[1] == "01234"


async def test_nobody_waits_for_what_may_end_before_its_own_time(
    cached: Cached, gate: Gate
) -> None:
    hasty = asking(cached, deadline_seconds=time.monotonic() + 60)
    await turns()
    limited = Principal("anonymous", limits=KeyLimits(deadline_seconds=90))
    later = [asking(cached), asking(cached, principal=limited)]
    await turns()
    assert gate.n_begun == 2  # the second of `later` joins the first, which has no deadline
    gate.open(10)
    assert [(await task)[0] for task in (hasty, *later)] == ["MISS", "MISS", "COALESCED"]


async def test_an_error_reaches_all_and_the_next_one_is_computed(
    cached: Cached, serving: FakeServing, gate: Gate
) -> None:
    async def breaks(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        async for delta in gate(submit):
            yield delta
            raise EngineFailed("broken")

    serving.script = breaks
    asked = [asking(cached) for _ in range(4)]
    await turns()
    gate.open(1)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [EngineFailed] * 4
    serving.script = gate
    gate.open(5)
    assert await cached.ask("a") == ("MISS", "01234")


async def test_a_refusal_is_for_who_was_refused(cached: Cached, serving: FakeServing) -> None:
    serving.refusal = Overloaded("full")
    with pytest.raises(Overloaded):
        await cached.ask("a")
    serving.refusal = None
    assert (await cached.ask("a"))[0] == "MISS"


async def test_no_store_and_no_cache_wait_for_nobody(cached: Cached, gate: Gate) -> None:
    asked = [asking(cached)]
    await turns()
    asked += [asking(cached, control="no-store"), asking(cached, control="no-cache")]
    await turns()
    assert gate.n_begun == 3
    gate.open(15)
    assert [(await task)[0] for task in asked] == ["MISS", "BYPASS", "MISS"]


async def test_whoever_asks_before_it_is_on_disk_is_answered_from_memory(
    cached: Cached, serving: FakeServing
) -> None:
    assert (await cached.ask("a"))[0] == "MISS"
    result, text = await cached.ask("a")  # at once
    assert (result in ("COALESCED", "HIT"), text) == (True, "a-1")
    assert len(serving.submits) == 1


async def test_closing_ends_what_is_under_way(cached: Cached, gate: Gate) -> None:
    waiting = asking(cached)
    await turns()
    await cached.cache.close()
    with pytest.raises(EngineFailed):
        await waiting
    async with cached.answer(asked_for("a")) as found:
        assert found.result == "MISS"
        gate.open(10)  # the scripted engine does not stop for those who left
        assert await text_of(found) == "01234"
