"""POST /v1/chat/completions through the official client: shapes, streams, choices, what engines get."""

from __future__ import annotations

from typing import Any

from fake_serving import DIGEST, FakeServing, spell
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

MESSAGES: list[Any] = [{"role": "user", "content": "Say hello"}]


async def _chunks(openai: AsyncOpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    stream = await openai.chat.completions.create(
        model="canary", messages=MESSAGES, stream=True, **fields
    )
    return [chunk async for chunk in stream]


async def test_an_answer_in_one_piece(openai: AsyncOpenAI) -> None:
    raw = await openai.chat.completions.with_raw_response.create(model="canary", messages=MESSAGES)
    answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "canary"
    assert answer.system_fingerprint == f"fp_{DIGEST[:12]}"
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == 2
    assert answer.usage.total_tokens == 7
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert raw.headers["X-Model-Digest"] == DIGEST
    assert raw.headers["X-Request-Id"]


async def test_a_stream_is_role_text_finish(openai: AsyncOpenAI) -> None:
    chunks = await _chunks(openai)
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    deltas = [chunk.choices[0].delta.model_dump(exclude_unset=True) for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]


async def test_the_usage_comes_last_where_it_was_asked_for(openai: AsyncOpenAI) -> None:
    *others, last = await _chunks(openai, stream_options={"include_usage": True})
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in others)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 7


async def test_choices_come_side_by_side_and_the_prompt_counts_once(openai: AsyncOpenAI) -> None:
    answer = await openai.chat.completions.create(model="canary", messages=MESSAGES, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["Hello"] * 3
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 6)


async def test_choices_of_a_stream_are_told_apart_by_their_index(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    serving.script = spell("a", "b", "c")
    chunks = await _chunks(openai, n=2, stream_options={"include_usage": True})
    for index in (0, 1):
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert own[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in own) == "abc"
        assert own[-1].finish_reason == "stop"
    order = [c.choices[0].index for c in chunks if c.choices]
    assert order != sorted(order), "one choice was held back until the other was over"


async def test_logprobs_have_text_bytes_and_the_best(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    serving.script = spell("ö", "k")
    answer = await openai.chat.completions.create(
        model="canary", messages=MESSAGES, logprobs=True, top_logprobs=1
    )
    assert serving.submits[0].sampling.n_logprobs == 1
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    first, second = logprobs.content
    assert (first.token, first.bytes, first.logprob) == ("ö", [0xC3, 0xB6], 0.0)
    assert (second.token, second.logprob) == ("k", -0.5)
    assert [best.token for best in first.top_logprobs] == ["ö"]


async def test_a_stream_has_the_logprobs_of_each_part(openai: AsyncOpenAI) -> None:
    chunks = await _chunks(openai, logprobs=True)
    tokens = [
        entry.token
        for chunk in chunks
        if chunk.choices[0].logprobs is not None
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert tokens == ["Hel", "lo"]


async def test_every_parameter_reaches_the_engine(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    await openai.chat.completions.create(
        model="canary",
        messages=MESSAGES,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        logit_bias={"7": 3, "2": -100},
        seed=42,
        stop=["a", "b"],
        max_completion_tokens=9,
        max_tokens=4,
        extra_body={
            "top_k": 40,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [3],
            "include_stop_str_in_output": True,
            "chat_template_kwargs": {"enable_thinking": False},
        },
    )
    (submit,) = serving.submits
    sampling = submit.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (
        0.5, 0.9, 40, 0.05,
    )  # fmt: skip
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.1, -0.2)
    assert sampling.repetition_penalty == 1.1
    assert sampling.logit_bias == [(2, -100.0), (7, 3.0)]
    assert sampling.seed == 42
    assert sampling.n_logprobs is None
    assert (submit.stop, submit.stop_token_ids, submit.include_stop) == (["a", "b"], [3], True)
    assert (submit.max_tokens, submit.min_tokens, submit.ignore_eos) == (9, 2, True)
    assert submit.template_args == {"enable_thinking": False}
    assert submit.messages == [{"role": "user", "content": "Say hello"}]
    assert submit.text is None
    assert submit.tokens is None


async def test_nulls_and_what_changes_nothing_are_accepted(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    await openai.chat.completions.create(
        model="canary",
        messages=MESSAGES,
        temperature=None,
        stop=None,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        modalities=["text"],
        store=False,
        metadata={"a": "b"},
        parallel_tool_calls=True,
        service_tier="auto",
        reasoning_effort="low",
        user="me",
        extra_body={"functions": None, "something_new": {"a": [1]}},
    )
    (submit,) = serving.submits
    assert submit.sampling.temperature == 1.0
    assert submit.max_tokens is None
    assert submit.stop == []


async def test_choices_get_seeds_of_their_own_and_the_first_the_clients(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    for n in (1, 3, 3):
        await openai.chat.completions.create(model="canary", messages=MESSAGES, n=n, seed=-1)
    seeds = [submit.sampling.seed for submit in serving.submits]
    assert seeds[0] == seeds[1] == 2**64 - 1
    assert seeds[1:4] == seeds[4:7]
    assert len(set(seeds)) == 3


async def test_without_a_seed_no_two_answers_share_one(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    for _ in range(2):
        await openai.chat.completions.create(model="canary", messages=MESSAGES, n=2)
    assert len({submit.sampling.seed for submit in serving.submits}) == 4
