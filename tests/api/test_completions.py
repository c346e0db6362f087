"""POST /v1/completions through the official client: prompts, choices, echo, legacy log-probabilities."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fake_serving import FakeServing, spell
from openai import AsyncOpenAI, BadRequestError

from hearthd import wire


async def test_an_answer_in_one_piece(serving: FakeServing, openai: AsyncOpenAI) -> None:
    answer = await openai.completions.create(model="canary", prompt="Say hello")
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "Hello", "stop")
    assert choice.logprobs is None
    assert answer.usage is not None
    assert answer.usage.total_tokens == 7
    (submit,) = serving.submits
    assert (submit.text, submit.tokens, submit.messages) == ("Say hello", None, None)
    assert submit.max_tokens == 16
    assert not submit.echo
    assert submit.prompt_logprobs is None


async def test_a_stream(openai: AsyncOpenAI) -> None:
    stream = await openai.completions.create(
        model="canary", prompt="x", stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert [(c.choices[0].text, c.choices[0].finish_reason) for c in chunks] == [
        ("Hel", None),
        ("lo", "stop"),
    ]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens == 5


@pytest.mark.parametrize(
    ("prompt", "texts", "tokens"),
    [
        ("a", ["a"], [None]),
        (["a", "b"], ["a", "b"], [None, None]),
        ([1, 2, 3], [None], [[1, 2, 3]]),
        ([[1], [2, 3]], [None, None], [[1], [2, 3]]),
    ],
)
async def test_prompts_of_every_kind(
    serving: FakeServing,
    openai: AsyncOpenAI,
    prompt: Any,
    texts: list[str | None],
    tokens: list[list[int] | None],
) -> None:
    answer = await openai.completions.create(model="canary", prompt=prompt)
    assert [submit.text for submit in serving.submits] == texts
    assert [submit.tokens for submit in serving.submits] == tokens
    assert len(answer.choices) == len(texts)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5 * len(texts)


async def test_choices_of_prompts_are_numbered_prompt_by_prompt(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        text = f"{submit.text}:{submit.sampling.seed % 100}"
        usage = wire.Usage(5, 1, 0)
        yield wire.Delta(submit.rid, text, [1], finish="length", usage=usage)

    serving.script = script
    answer = await openai.completions.create(model="canary", prompt=["a", "b"], n=2, seed=7)
    seeds = [submit.sampling.seed for submit in serving.submits]
    assert seeds[:2] == seeds[2:]
    texts = [choice.text for choice in answer.choices]
    assert [text.split(":")[0] for text in texts] == ["a", "a", "b", "b"]
    assert texts[0] == "a:7"
    assert texts[2] == "b:7"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 4)


async def test_echo_with_logprobs_scores_the_prompt(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        entries = [
            wire.TokenLogprob(1, b"on", None),
            wire.TokenLogprob(2, "ce ü".encode(), -1.5, [(9, b"ly", -0.25)]),
            wire.TokenLogprob(3, b" up", float("-inf"), [(3, b" up", float("-inf"))]),
        ]
        usage = wire.Usage(2, 1, 0)
        yield wire.Delta(
            submit.rid, "once ü up", [1, 2, 3], logprobs=entries, finish="length", usage=usage
        )

    serving.script = script
    answer = await openai.completions.create(
        model="canary", prompt="once ü", echo=True, logprobs=1, max_tokens=1
    )
    (submit,) = serving.submits
    assert (submit.echo, submit.prompt_logprobs, submit.sampling.n_logprobs) == (True, 1, 1)
    (choice,) = answer.choices
    assert choice.text == "once ü up"
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["on", "ce ü", " up"]
    assert logprobs.token_logprobs == [None, -1.5, -9999.0]
    assert logprobs.text_offset == [0, 2, 6]
    assert logprobs.top_logprobs == [None, {"ly": -0.25, "ce ü": -1.5}, {" up": -9999.0}]


async def test_scoring_alone_asks_for_no_tokens(serving: FakeServing, openai: AsyncOpenAI) -> None:
    await openai.completions.create(
        model="canary", prompt="once", echo=True, logprobs=0, max_tokens=0
    )
    (submit,) = serving.submits
    assert (submit.max_tokens, submit.prompt_logprobs) == (0, 0)


async def test_text_offsets_go_on_through_a_stream(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    serving.script = spell("ab", "c", "def")
    stream = await openai.completions.create(model="canary", prompt="x", logprobs=0, stream=True)
    offsets = [chunk.choices[0].logprobs async for chunk in stream]
    assert [entry and entry.text_offset for entry in offsets] == [[0], [2], [3]]


async def test_best_of_is_fine_where_it_says_nothing(openai: AsyncOpenAI) -> None:
    await openai.completions.create(model="canary", prompt="x", n=2, best_of=2)
    with pytest.raises(BadRequestError, match="best_of: is served only where it equals n"):
        await openai.completions.create(model="canary", prompt="x", best_of=2)


async def test_a_stop_string_is_named(serving: FakeServing, openai: AsyncOpenAI) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        by = submit.stop[0] if submit.stop else 258
        usage = wire.Usage(1, 1, 0)
        yield wire.Delta(submit.rid, "x", [1], finish="stop", usage=usage, stopped_by=by)

    serving.script = script
    for extra, reason in (
        ({"stop": "END"}, "END"),
        ({"extra_body": {"stop_token_ids": [258]}}, 258),
        ({}, None),
    ):
        answer = await openai.completions.create(model="canary", prompt="x", **extra)
        assert answer.choices[0].model_dump()["stop_reason"] == reason
