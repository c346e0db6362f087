"""Tools through the official client: what engines get, and answers in every form, whole and streamed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fake_serving import INFO, FakeServing, spell
from openai import AsyncOpenAI

from hearthd import wire

MESSAGES: list[Any] = [{"role": "user", "content": "What is the weather?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS},
}
NOW: Any = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]
NAMED: Any = {"type": "function", "function": {"name": "now"}}

TEXTS: dict[wire.ToolFormat, list[str]] = {
    "hermes": [
        '<tool_call>\n{"name": "weather", "argu',
        'ments": {"city": "Köln"}}\n</tool_call>\n<tool_call>{"name": "now", "arguments": {}}',
    ],
    "llama3": [
        '{"name": "weather", "param',
        'eters": {"city": "Köln"}}; {"name": "now", "parameters": {}}',
    ],
    "mistral": [
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Kö',
        'ln"}}, {"name": "now", "arguments": {}}]',
    ],
    "mistral-args": ['[TOOL_CALLS]weather[ARGS]{"city": "K', 'öln"}[TOOL_CALLS]now[ARGS]{}'],
}
CALLS = [("weather", '{"city": "Köln"}'), ("now", "{}")]


def speak(serving: FakeServing, form: wire.ToolFormat | None, *texts: str, **options: Any) -> None:
    serving.info = msgspec.structs.replace(INFO, tool_format=form)
    serving.script = spell(*texts, **options)


async def streamed(openai: AsyncOpenAI, **fields: Any) -> dict[int, dict[str, Any]]:
    """The choices of a stream, put together."""
    choices: dict[int, dict[str, Any]] = {}
    stream = await openai.chat.completions.create(
        model="canary", messages=MESSAGES, stream=True, **fields
    )
    async for chunk in stream:
        for choice in chunk.choices:
            one = choices.setdefault(
                choice.index, {"content": "", "calls": {}, "finish": None, "logprobs": 0}
            )
            one["content"] += choice.delta.content or ""
            one["finish"] = choice.finish_reason or one["finish"]
            one["logprobs"] += len((choice.logprobs and choice.logprobs.content) or ())
            for part in choice.delta.tool_calls or ():
                if part.index not in one["calls"]:
                    assert part.id
                    assert part.type == "function"
                    assert part.function is not None
                    one["calls"][part.index] = [part.id, part.function.name, ""]
                else:
                    assert part.id is None
                assert part.function is not None
                one["calls"][part.index][2] += part.function.arguments or ""
    return choices


@pytest.mark.parametrize("form", TEXTS)
async def test_calls_of_every_form(
    serving: FakeServing, openai: AsyncOpenAI, form: wire.ToolFormat
) -> None:
    speak(serving, form, *TEXTS[form])
    answer = await openai.chat.completions.create(model="canary", messages=MESSAGES, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    calls = choice.message.tool_calls or []
    assert [(c.function.name, c.function.arguments) for c in calls if c.type == "function"] == CALLS
    assert len({call.id for call in calls}) == 2
    if form.startswith("mistral"):
        assert all(len(call.id) == 9 and call.id.isalnum() for call in calls)
    choices = await streamed(openai, tools=TOOLS, n=2)
    for index in (0, 1):
        one = choices[index]
        assert [tuple(call[1:]) for _, call in sorted(one["calls"].items())] == CALLS
        assert (one["content"], one["finish"]) == ("", "tool_calls")


async def test_text_before_and_after_calls(serving: FakeServing, openai: AsyncOpenAI) -> None:
    speak(serving, "hermes", "Let me see.", TEXTS["hermes"][0], TEXTS["hermes"][1], " Done.")
    answer = await openai.chat.completions.create(model="canary", messages=MESSAGES, tools=TOOLS)
    message = answer.choices[0].message
    assert message.content == "Let me see. Done."
    assert len(message.tool_calls or ()) == 2
    one = (await streamed(openai, tools=TOOLS))[0]
    assert one["content"] == "Let me see. Done."
    assert len(one["calls"]) == 2


async def test_an_answer_without_calls(serving: FakeServing, openai: AsyncOpenAI) -> None:
    speak(serving, "hermes", "It is <", "tool>", " sunny.")
    answer = await openai.chat.completions.create(model="canary", messages=MESSAGES, tools=TOOLS)
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("It is <tool> sunny.", "stop")
    assert choice.message.tool_calls is None
    assert "tool_calls" not in choice.message.model_dump(exclude_unset=True)
    one = (await streamed(openai, tools=TOOLS))[0]
    assert (one["content"], one["finish"]) == ("It is <tool> sunny.", "stop")


async def test_a_broken_call_is_content(serving: FakeServing, openai: AsyncOpenAI) -> None:
    text = '<tool_call>\n{"name": "weather", "arguments": {city}}\n</tool_call>'
    speak(serving, "hermes", text)
    answer = await openai.chat.completions.create(model="canary", messages=MESSAGES, tools=TOOLS)
    assert answer.choices[0].message.content == text
    assert answer.choices[0].finish_reason == "stop"
    assert (await streamed(openai, tools=TOOLS))[0]["content"] == text


async def test_a_cut_call_says_length(serving: FakeServing, openai: AsyncOpenAI) -> None:
    speak(serving, "hermes", *TEXTS["hermes"][:1], '": {"ci', finish="length")
    for choice in ("auto", "required"):
        fields: Any = {"tools": TOOLS, "tool_choice": choice}
        answer = await openai.chat.completions.create(model="canary", messages=MESSAGES, **fields)
        assert answer.choices[0].finish_reason == "length"
        assert (await streamed(openai, **fields))[0]["finish"] == "length"


async def test_a_forced_call_streams_its_arguments(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    speak(
        serving,
        "hermes",
        '<tool_call>\n{"name": "weather", "arguments": {"ci',
        'ty"',
        ": ",
        '"K"}}\n</tool_call>',
    )
    fields: Any = {"tools": TOOLS, "tool_choice": "required", "stream": True}
    stream = await openai.chat.completions.create(model="canary", messages=MESSAGES, **fields)
    pieces = [
        part.function.arguments
        async for chunk in stream
        for part in chunk.choices[0].delta.tool_calls or ()
    ]
    assert pieces == ["", '{"ci', 'ty"', ": ", '"K"}']


async def test_log_probabilities_are_all_told(serving: FakeServing, openai: AsyncOpenAI) -> None:
    speak(serving, "hermes", "Well. ", *TEXTS["hermes"])
    fields: Any = {"tools": TOOLS, "logprobs": True}
    answer = await openai.chat.completions.create(model="canary", messages=MESSAGES, **fields)
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.content or ()) == 3
    assert (await streamed(openai, **fields))[0]["logprobs"] == 3


async def test_one_call_at_most(serving: FakeServing, openai: AsyncOpenAI) -> None:
    speak(serving, "hermes", *TEXTS["hermes"])
    answer = await openai.chat.completions.create(
        model="canary", messages=MESSAGES, tools=TOOLS, parallel_tool_calls=False
    )
    assert len(answer.choices[0].message.tool_calls or ()) == 1
    assert len((await streamed(openai, tools=TOOLS, parallel_tool_calls=False))[0]["calls"]) == 1


async def test_the_clients_own_stream_helper(serving: FakeServing, openai: AsyncOpenAI) -> None:
    speak(serving, "hermes", *TEXTS["hermes"])
    async with openai.chat.completions.stream(
        model="canary", messages=MESSAGES, tools=TOOLS
    ) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [(c.function.name, c.function.arguments) for c in calls] == CALLS


# --- what engines get -----------------------------------------------------------------------------


async def submitted(serving: FakeServing, openai: AsyncOpenAI, **fields: Any) -> wire.Submit:
    await openai.chat.completions.create(model="canary", messages=MESSAGES, **fields)
    return serving.submits[-1]


def tool(name: str, parameters: Any, index: int) -> wire.Tool:
    return wire.Tool(name, parameters, f"tools[{index}].function.parameters")


BOTH = [tool("weather", PARAMETERS, 0), tool("now", None, 1)]


async def test_tools_reach_the_template(serving: FakeServing, openai: AsyncOpenAI) -> None:
    submit = await submitted(serving, openai, tools=TOOLS)
    assert submit.template_args == {"tools": TOOLS}
    assert submit.calls_tools
    assert submit.constraint is None


async def test_no_tools_no_calls(serving: FakeServing, openai: AsyncOpenAI) -> None:
    asked: list[dict[str, Any]] = [
        {"tools": TOOLS, "tool_choice": "none"},
        {"tools": []},
        {"tool_choice": "auto"},
    ]
    for fields in asked:
        submit = await submitted(serving, openai, extra_body=fields)
        assert submit.template_args == {}
        assert not submit.calls_tools


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"tool_choice": "required"}, wire.ToolConstraint(BOTH)),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            wire.ToolConstraint(BOTH, parallel=False),
        ),
        ({"tool_choice": NAMED}, wire.ToolConstraint(BOTH[1:], parallel=False)),
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            wire.ToolConstraint(BOTH),
        ),
        (
            {"response_format": {"type": "json_object"}},
            wire.ToolConstraint(
                [tool("weather", {"type": "object"}, 0), tool("now", {"type": "object"}, 1)],
                forced=False,
                answer={"type": "object"},
            ),
        ),
        (
            {
                "tools": [
                    {**WEATHER, "function": {**WEATHER["function"], "strict": True}},
                    NOW,
                ]
            },
            wire.ToolConstraint(
                [tool("weather", PARAMETERS, 0), tool("now", {"type": "object"}, 1)], forced=False
            ),
        ),
    ],
    ids=repr,
)
async def test_what_calls_are_held_to(
    serving: FakeServing,
    openai: AsyncOpenAI,
    fields: dict[str, Any],
    constraint: wire.ToolConstraint,
) -> None:
    submit = await submitted(serving, openai, extra_body={"tools": TOOLS, **fields})
    assert submit.constraint == constraint


async def test_past_calls_and_their_results_are_part_of_a_chat(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    speak(serving, "hermes", *TEXTS["hermes"])
    first = await openai.chat.completions.create(model="canary", messages=MESSAGES, tools=TOOLS)
    message: Any = first.choices[0].message
    results: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls
    ]
    chat: Any = [*MESSAGES, message, *results]
    await openai.chat.completions.create(model="canary", messages=chat, tools=TOOLS)
    said = serving.submits[-1].messages or []
    assert [m["role"] for m in said] == ["user", "assistant", "tool", "tool"]
    assert said[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Köln"}
    assert said[2]["tool_call_id"] == message.tool_calls[0].id
