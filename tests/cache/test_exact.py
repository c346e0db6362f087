"""Exact answers: found again, apart by whom and what, within time and budget, over restarts and faults."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sqlite3
from pathlib import Path

import msgspec
import pytest
from cached import Cached, asked_for, text_of
from fake_serving import FakeServing

from hearthd import wire
from hearthd.cache.answers import Selection
from hearthd.cache.recording import BadRecording, Recording, pack, unpack
from hearthd.config.schema import CacheConfig, KeyConfig, ModelCacheConfig
from hearthd.errors import Forbidden, NotCached, Overloaded
from hearthd.serving.principal import Principal

ANN, BOB = Principal("ann"), Principal("bob")
WARM = wire.Sampling(temperature=0.7, seed=5)


async def asked_twice(cached: Cached, *args: object, **kwargs: object) -> str:
    """What the second of two equal requests was."""
    await cached.ask(*args, **kwargs)  # type: ignore[arg-type]
    await cached.settled()
    return (await cached.ask(*args, **kwargs))[0]  # type: ignore[arg-type]


async def test_the_second_time_nothing_is_computed(cached: Cached, serving: FakeServing) -> None:
    assert await cached.ask("a") == ("MISS", "a-1")
    await cached.settled()
    assert await cached.ask("a") == ("HIT", "a-1")
    assert await cached.ask("b") == ("MISS", "b-2")
    assert len(serving.submits) == 2


async def test_a_hit_says_what_was_said_then_and_that_no_prompt_was_computed(
    cached: Cached,
) -> None:
    first = asked_for("a")
    async with cached.answer(first) as found:
        assert found.source is not None
        live = [list(step) async for step in found.source.steps()]
    await cached.settled()
    async with cached.answer(asked_for("a")) as found:
        assert found.result == "HIT"
        assert (found.id, found.created) == (first.id, first.created)
        assert found.source is not None
        assert found.age_seconds is not None
        kept = [list(step) async for step in found.source.steps()]
    plain = {"rid": 0, "started_seconds": None, "usage": None}
    assert [[(c, msgspec.structs.replace(d, **plain)) for c, d in step] for step in kept] == [
        [(c, msgspec.structs.replace(d, **plain)) for c, d in step] for step in live
    ]
    usage = kept[-1][0][1].usage
    assert usage == wire.Usage(5, 3, 5)


async def test_it_survives_a_restart(serving: FakeServing, tmp_path: Path) -> None:
    async with Cached(serving, tmp_path).opened() as cached:
        await cached.ask("a")
    async with Cached(serving, tmp_path).opened() as cached:
        assert await cached.ask("a") == ("HIT", "a-1")
        assert (cached.counts.n_entries, cached.counts.n_bytes > 300) == (1, True)


async def test_sampled_answers_only_with_a_seed_or_where_the_configuration_says_so(
    serving: FakeServing, tmp_path: Path
) -> None:
    async with Cached(serving, tmp_path / "plain").opened() as cached:
        assert await asked_twice(cached, "a", sampling=WARM) == "BYPASS"
        assert await asked_twice(cached, "a", sampling=WARM, seeded=True) == "HIT"
        other = msgspec.structs.replace(WARM, seed=6)
        assert (await cached.ask("a", sampling=other, seeded=True))[0] == "MISS"
    async with Cached(
        serving, tmp_path / "opted", model=ModelCacheConfig(sampled=True)
    ).opened() as cached:
        await cached.ask("a", sampling=WARM)
        await cached.settled()
        other = msgspec.structs.replace(WARM, seed=6)  # drawn by the API, not by the client
        assert (await cached.ask("a", sampling=other))[0] == "HIT"
        assert (await cached.ask("a", sampling=other, seeded=True))[0] == "MISS"


async def test_a_greedy_answer_does_not_depend_on_the_seed(cached: Cached) -> None:
    await cached.ask("a", sampling=wire.Sampling(temperature=0.0, seed=1))
    await cached.settled()
    assert (await cached.ask("a", sampling=wire.Sampling(temperature=0.0, seed=2)))[0] == "HIT"


async def test_another_model_under_the_name_knows_nothing_of_what_the_old_one_said(
    cached: Cached, serving: FakeServing
) -> None:
    assert await asked_twice(cached, "a") == "HIT"
    serving.info = msgspec.structs.replace(serving.info, digest="f" * 64)
    assert await cached.ask("a") == ("MISS", "a-2")
    await cached.settled()
    left = await cached.exact.scopes(None)
    assert [(scope.digest, scope.n_answers) for scope in left] == [("f" * 64, 1)]
    serving.info = msgspec.structs.replace(serving.info, backend="other")
    assert (await cached.ask("a"))[0] == "MISS"


async def test_keys_have_their_own_answers(cached: Cached) -> None:
    await cached.ask("a", principal=ANN)
    await cached.settled()
    assert (await cached.ask("a", principal=ANN))[0] == "HIT"
    assert (await cached.ask("a", principal=BOB))[0] == "MISS"
    assert (await cached.ask("a"))[0] == "MISS"


async def test_of_ten_thousand_pairs_of_tenants_none_shares_an_answer(cached: Cached) -> None:
    """Names of keys are what people write; each tenant asks what all before it have asked."""
    rng = random.Random(4)
    shapes = ("{}", "group:{}", "key:{}", "shared:{}", " {} ", "Ä{}", "{}\x00")
    names = [rng.choice(shapes).format(i) for i in range(102)]
    told: dict[str, tuple[str, str]] = {}
    for question in ("a", "b"):
        rng.shuffle(names)
        for name in names:
            result, text = await cached.ask(question, principal=Principal(name))
            assert result == "MISS"
            assert told.setdefault(text, (name, question)) == (name, question)
        await cached.settled()
    assert len(told) == 2 * len(names)
    assert 2 * math.comb(len(names), 2) > 10_000
    for text, (name, question) in rng.sample(list(told.items()), 100):
        assert await cached.ask(question, principal=Principal(name)) == ("HIT", text)


async def test_groups_and_all_keys_share_where_the_configuration_says_so(
    serving: FakeServing, tmp_path: Path
) -> None:
    keys = {
        name: KeyConfig(hash="", cache_group=group)
        for name, group in (("ann", "team"), ("bob", "team"), ("eve", ""))
    }
    async with Cached(serving, tmp_path / "groups", keys=keys).opened() as cached:
        await cached.ask("a", principal=ANN)
        await cached.settled()
        assert (await cached.ask("a", principal=BOB))[0] == "HIT"
        assert (await cached.ask("a", principal=Principal("eve")))[0] == "MISS"
        assert (await cached.ask("a", principal=Principal("team")))[0] == "MISS"
    shared = CacheConfig(shared=True)
    async with Cached(serving, tmp_path / "shared", cache=shared).opened() as cached:
        await cached.ask("a", principal=ANN)
        await cached.settled()
        assert (await cached.ask("a", principal=BOB))[0] == "HIT"
        assert (await cached.ask("a", principal=Principal("eve", salt="s")))[0] == "MISS"


async def test_a_key_that_may_not_use_the_model_gets_no_answer(
    serving: FakeServing, tmp_path: Path
) -> None:
    async with Cached(serving, tmp_path, cache=CacheConfig(shared=True)).opened() as cached:
        assert await asked_twice(cached, "a", principal=ANN) == "HIT"
        with pytest.raises(Forbidden):
            await cached.ask("a", principal=Principal("bob", models=frozenset({"other"})))


async def test_cache_control(cached: Cached) -> None:
    with pytest.raises(NotCached):
        await cached.ask("a", control="only-if-cached")
    assert await cached.ask("a", control="no-store") == ("BYPASS", "a-1")
    await cached.settled()
    assert await cached.ask("a") == ("MISS", "a-2")
    await cached.settled()
    assert await cached.ask("a", control="only-if-cached, max-age=60") == ("HIT", "a-2")
    assert await cached.ask("a", control="no-cache") == ("MISS", "a-3")
    await cached.settled()
    assert await cached.ask("a") == ("HIT", "a-3")
    assert await cached.ask("a", control="max-age=0") == ("MISS", "a-4")
    with pytest.raises(NotCached):
        await cached.ask("a", control="only-if-cached", sampling=WARM)


async def test_what_is_too_old_is_computed_anew(serving: FakeServing, tmp_path: Path) -> None:
    async with Cached(
        serving, tmp_path, model=ModelCacheConfig(ttl_seconds=0.2)
    ).opened() as cached:
        await cached.ask("a")
        await cached.settled()
        await asyncio.sleep(1.2)  # moments of creation are whole seconds
        assert await cached.ask("a") == ("MISS", "a-2")


async def test_worded_answers_come_from_memory_and_are_gone_with_the_answer(
    cached: Cached,
) -> None:
    await cached.ask("a")
    await cached.settled()
    async with cached.answer(asked_for("a")) as found:
        found.keep(b"the body")
    assert await cached.ask("a") == ("HIT", "the body")
    assert (await cached.ask("a", principal=ANN))[0] == "MISS"
    assert await cached.ask("a", control="no-cache") == ("MISS", "a-3")
    await cached.settled()
    assert await cached.ask("a") == ("HIT", "a-3")


async def test_hits_are_counted_and_what_they_spared(cached: Cached) -> None:
    await cached.ask("a")
    await cached.settled()
    for _ in range(3):
        await cached.ask("a")
    assert cached.counts.results["canary", "HIT"] == 3
    assert cached.counts.saved_tokens["canary"] == 3 * 8
    await asyncio.sleep(1.2)
    listed = await cached.exact.listed(Selection(), "hits", 10)
    assert [(one.question, one.hits, one.n_output) for one in listed] == [("a", 3, 3)]
    assert [one.key for one in cached.exact.top] == [listed[0].key]


async def test_the_budget_holds_and_what_is_asked_for_stays(
    serving: FakeServing, tmp_path: Path
) -> None:
    async with Cached(serving, tmp_path, cache=CacheConfig(budget=20_000)).opened() as cached:
        for _ in range(4):
            await cached.ask("often")
            await cached.settled()
        for i in range(150):
            await cached.ask(f"once {i}")
            await cached.settled()
        assert cached.counts.n_bytes <= 20_000
        assert cached.counts.removed["budget"] > 50
        assert await cached.ask("often") == ("HIT", "often-1")


async def test_an_answer_larger_than_may_be_is_not_kept(
    serving: FakeServing, tmp_path: Path
) -> None:
    async with Cached(serving, tmp_path, cache=CacheConfig(entry=100)).opened() as cached:
        assert await asked_twice(cached, "a") == "MISS"
        await cached.settled()
        assert cached.counts.n_rejected == 2


async def test_a_smaller_budget_is_kept_after_a_restart(
    serving: FakeServing, tmp_path: Path
) -> None:
    async with Cached(serving, tmp_path).opened() as cached:
        for i in range(30):
            await cached.ask(f"{i}")
    async with Cached(serving, tmp_path, cache=CacheConfig(budget=4000)).opened() as cached:
        await asyncio.sleep(1.3)
        assert 0 < cached.counts.n_bytes <= 4000


async def test_an_answer_that_was_refused_or_failed_is_not_kept(
    cached: Cached, serving: FakeServing
) -> None:
    serving.refusal = Overloaded("full")
    with pytest.raises(Overloaded):
        await cached.ask("a")
    serving.refusal = None

    async def fails(submit: wire.Submit):  # type: ignore[no-untyped-def]
        yield wire.Delta(rid=submit.rid, text="half", tokens=[1])
        raise Overloaded("no more")

    script, serving.script = serving.script, fails
    with pytest.raises(Overloaded):
        await cached.ask("a")
    serving.script = script
    await cached.settled()
    assert await cached.ask("a") == ("MISS", "a-1")


async def test_a_damaged_answer_is_never_served(cached: Cached, tmp_path: Path) -> None:
    await cached.ask("a")
    await cached.settled()

    def damage() -> None:
        with sqlite3.connect(tmp_path / "cache.db") as connection:
            (body,) = connection.execute("SELECT body FROM answers").fetchone()
            at = len(body) - 6
            bad = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            connection.execute("UPDATE answers SET body = ?", (bad,))
        connection.close()

    await asyncio.to_thread(damage)
    assert await cached.ask("a") == ("MISS", "a-2")
    assert cached.counts.faults["damaged"] == 1
    await cached.settled()
    assert await cached.ask("a") == ("HIT", "a-2")


def test_no_byte_of_an_answer_changes_unseen() -> None:
    steps = [[(0, wire.Delta(rid=0, text=f"word {i} ", tokens=[i]))] for i in range(40)]
    key = bytes(range(32))
    recording = Recording(key, "cmpl-1", 1, steps)
    packed, n_seen = pack(recording), 0
    for at in range(len(packed)):
        damaged = packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :]
        try:
            assert unpack(damaged, key) == recording  # a bit of the frame's head that says nothing
        except BadRecording:
            n_seen += 1
    assert n_seen >= len(packed) - 2
    with pytest.raises(BadRecording, match="another request"):
        unpack(packed, bytes(32))


async def test_a_full_disk_is_told_once_and_fails_nothing(
    cached: Cached, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    database = cached.exact._database
    assert database is not None
    await database.write(lambda c: c.execute("PRAGMA max_page_count = 1").fetchall())
    big = "x" * 50_000
    for i in range(20):
        assert (await cached.ask(f"{big}{i}"))[0] == "MISS"
        await cached.settled()
        cached.exact._no_writes_until = 0.0  # as if half a minute had passed
    assert cached.counts.faults["full"] > 1
    told = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(told) == 1
    await database.write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchall())
    assert await asked_twice(cached, "after") == "HIT"
    assert "works again" in caplog.text


async def test_without_a_file_there_is_no_cache_and_nothing_fails(
    serving: FakeServing, tmp_path: Path
) -> None:
    (tmp_path / "f").write_text("not a folder")
    async with Cached(serving, tmp_path / "f").opened() as cached:
        assert await asked_twice(cached, "a") == "MISS"
        assert cached.counts.faults["io"] == 1


async def test_a_damaged_file_is_set_aside(serving: FakeServing, tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_bytes(b"no database" * 1000)
    async with Cached(serving, tmp_path).opened() as cached:
        assert await asked_twice(cached, "a") == "HIT"
    assert (tmp_path / "cache.db.damaged").exists()


async def test_several_choices_are_one_answer(cached: Cached) -> None:
    first = await cached.ask("a", n=3)
    await cached.settled()
    assert await cached.ask("a", n=3) == ("HIT", first[1])
    assert (await cached.ask("a", n=2))[0] == "MISS"


async def test_a_model_that_loads_is_waited_for_without_the_cache(
    cached: Cached, serving: FakeServing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "identity", lambda name, principal: None)
    assert (await cached.ask("a"))[0] == "BYPASS"
    assert cached.counts.bypasses["canary", "model-not-ready"] == 1
    async with cached.answer(asked_for("a")) as found:
        assert (await text_of(found)).startswith("a-")


async def test_what_is_answered_before_the_file_is_open_is_kept_once_it_is(
    serving: FakeServing, tmp_path: Path
) -> None:
    cached = Cached(serving, tmp_path)
    assert await cached.ask("a") == ("MISS", "a-1")
    assert await cached.ask("a") == ("COALESCED", "a-1")
    async with cached.opened():
        await cached.settled()
        assert await cached.ask("a") == ("HIT", "a-1")
