"""Other words for the same question: measured in the shadow, given where switched on, never across a wall."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cached import Cached, asked_for
from embedding_serving import EmbeddingServing
from fake_serving import spell

from hearthd import wire
from hearthd.cache.answers import Selection
from hearthd.config.schema import CacheConfig, KeyConfig, ModelCacheConfig
from hearthd.errors import ModelFailed
from hearthd.serving.principal import LOCAL, Principal

EMBEDDER = CacheConfig(embedder="embedder", threshold=0.9)
ON = ModelCacheConfig(semantic="on")


def chat(question: str, *before: str) -> dict[str, Any]:
    """A chat, after a system message where one is given."""
    system = [{"role": "system", "content": text} for text in before]
    return {"text": None, "messages": [*system, {"role": "user", "content": question}]}


def scripted(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
    """Answers what stands after the colon of a question."""
    question = (submit.messages or [{"content": ""}])[-1]["content"]
    return spell(question.partition(":")[2] or "nothing")(submit)


@pytest.fixture
async def serving() -> AsyncIterator[EmbeddingServing]:
    fake = EmbeddingServing(scripted)
    yield fake
    await fake.stop()


@pytest.fixture
async def shadow(serving: EmbeddingServing, tmp_path: Path) -> AsyncIterator[Cached]:
    async with Cached(serving, tmp_path, cache=EMBEDDER).opened() as cached:
        yield cached


@pytest.fixture
async def on(serving: EmbeddingServing, tmp_path: Path) -> AsyncIterator[Cached]:
    async with Cached(serving, tmp_path, cache=EMBEDDER, model=ON).opened() as cached:
        yield cached


async def asked(cached: Cached, question: str, *before: str, **terms: Any) -> tuple[str, str]:
    answer = await cached.ask(question, **chat(question, *before), **terms)
    await cached.settled()
    return answer


def outcomes(cached: Cached) -> dict[str, int]:
    return {outcome: n for (_, outcome), n in cached.counts.semantic.items()}


async def test_the_shadow_computes_everything_and_judges_what_it_would_have_said(
    shadow: Cached,
) -> None:
    for question in (
        "capital of norway: oslo",
        "tell me the capital of norway: oslo",  # the same words that count, the same answer
        "what is the capital of norway: oslo",
        "name a river: rhine",
    ):
        assert (await asked(shadow, question))[0] == "MISS"
    assert outcomes(shadow) == {"none": 2, "same": 2}


async def test_the_shadow_tells_what_would_have_been_wrong(
    shadow: Cached, serving: EmbeddingServing
) -> None:
    await asked(shadow, "capital of norway")
    serving.script = spell("something else entirely")
    await asked(shadow, "tell me the capital of norway")
    assert outcomes(shadow) == {"none": 1, "different": 1}


async def test_guards_are_counted_by_what_they_saw(shadow: Cached) -> None:
    words = "aa bb cc dd ee ff gg hh ii jj"
    await asked(shadow, f"{words} 1: x")
    await asked(shadow, f"{words} 2: x")
    await asked(shadow, f"{words} not 1: x")
    assert outcomes(shadow) == {"none": 1, "refused-number": 1, "refused-negation": 1}


@pytest.mark.parametrize("other", ["2: x", "not 1: x"])
async def test_on_gives_nothing_where_a_guard_objects(on: Cached, other: str) -> None:
    words = "aa bb cc dd ee ff gg hh ii jj"
    await asked(on, f"{words} 1: x")
    assert (await asked(on, f"{words} {other}"))[0] == "MISS"
    assert (await asked(on, f"tell me {words} 1: x"))[0] == "HIT"


async def test_on_gives_the_answer_and_says_how_near_it_was(on: Cached) -> None:
    assert await asked(on, "capital of norway: oslo") == ("MISS", " oslo")
    question = "tell me the capital of norway: oslo"
    async with on.answer(asked_for(question, **chat(question))) as found:
        assert found.result == "HIT"
        assert found.similarity is not None
        assert found.similarity > 0.99
    assert outcomes(on) == {"given": 1}


@pytest.mark.parametrize(
    "other",
    [
        {"before": ["You are a pirate"]},
        {"max_tokens": 5},
        {"principal": Principal("ann")},
        {"constraint": wire.RegexConstraint("a+")},
        {"template_args": {"tools": []}},
        {"adapter": "lora"},
        {"control": "no-cache"},
    ],
)
async def test_all_but_the_question_must_be_equal(on: Cached, other: dict[str, Any]) -> None:
    await asked(on, "capital of norway: oslo")
    before = other.pop("before", [])
    question = "tell me the capital of norway: oslo"
    assert (await asked(on, question, *before, **other))[0] == "MISS"


async def test_another_model_another_embedder_and_longer_chats_are_not_compared(
    on: Cached, serving: EmbeddingServing
) -> None:
    await asked(on, "capital of norway: oslo")
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "tell me the capital of norway: oslo"},
    ]
    assert (await on.ask(text=None, messages=turns))[0] == "MISS"
    serving.info = msgspec.structs.replace(serving.info, digest="9" * 64)
    assert (await asked(on, "tell me the capital of norway: oslo"))[0] == "MISS"


async def test_no_tenant_ever_gets_what_another_was_told(on: Cached) -> None:
    """Many tenants, few questions in many words: every hit is of the tenant's own."""
    rng = random.Random(3)
    tenants = [Principal(f"t{i}") for i in range(25)]
    for _ in range(400):
        tenant = rng.choice(tenants)
        filler = " ".join(rng.sample(["please", "tell me", "what is", "the"], 2))
        question = f"{filler} secret word of {rng.choice('abc')}:{tenant.name}"
        _, answer = await asked(on, question, principal=tenant)
        assert answer == tenant.name
    assert on.counts.results["canary", "HIT"] > 100
    assert on.counts.semantic["canary", "given"] > 50


async def test_a_key_may_say_otherwise_than_the_model(
    serving: EmbeddingServing, tmp_path: Path
) -> None:
    keys = {"ann": KeyConfig(hash="", semantic="off"), "bob": KeyConfig(hash="")}
    async with Cached(serving, tmp_path, cache=EMBEDDER, model=ON, keys=keys).opened() as cached:
        for name, expected in (("ann", "MISS"), ("bob", "HIT")):
            who = Principal(name)
            await asked(cached, "capital of norway: oslo", principal=who)
            again = await asked(cached, "tell me the capital of norway: oslo", principal=who)
            assert again[0] == expected


async def test_what_was_dropped_is_not_found_in_other_words(on: Cached) -> None:
    await asked(on, "capital of norway: oslo")
    await on.cache.drop(Selection(model="canary"))
    assert (await asked(on, "tell me the capital of norway: oslo"))[0] == "MISS"


async def test_an_embedder_that_fails_fails_nothing(on: Cached, serving: EmbeddingServing) -> None:
    serving.embedding_refusal = ModelFailed("broken")
    assert await asked(on, "capital of norway: oslo") == ("MISS", " oslo")
    assert (await asked(on, "capital of norway: oslo"))[0] == "HIT"
    assert on.counts.faults["semantic"] > 0


async def test_without_an_embedder_nothing_is_compared(
    serving: EmbeddingServing, tmp_path: Path
) -> None:
    async with Cached(serving, tmp_path, model=ON).opened() as cached:
        await asked(cached, "capital of norway: oslo", principal=LOCAL)
        assert (await asked(cached, "tell me the capital of norway: oslo"))[0] == "MISS"
    assert serving.n_embedded == 0
