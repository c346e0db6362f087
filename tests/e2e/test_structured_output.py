"""Structured output and tools from end to end: whatever a model that knows nothing of it says, it is right.

The official client, a real `hearthd`, real engines: the simulated model, and the canary where llama.cpp is.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest
from hearthd_process import Daemon, running
from openai import AsyncOpenAI, BadRequestError
from schemas import SCHEMAS

CONFIG = """
[models.sim]
path = "sim:context=2048"
[models.echo]
path = "sim:says=echo,context=2048"
"""
CANARY = """
[models.canary]
path = "builtin:canary"
threads = 1
"""
HAS_LLAMA = find_spec("llama_cpp") is not None
WITHOUT = pytest.mark.skipif(not HAS_LLAMA, reason="llama-cpp-python is not installed")
MODELS = ["sim", pytest.param("canary", marks=WITHOUT)]
MODELS_AT_LENGTH = ["sim", pytest.param("canary", marks=[WITHOUT, pytest.mark.slow])]
SIDE_BY_SIDE = 8

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["city"],
    "additionalProperties": False,
}
OPEN = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}},
    "required": ["tags"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any, *, strict: bool | None = None) -> Any:
    function = {"name": name, "parameters": parameters, "strict": strict}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


TOOLS = [tool("weather", WEATHER), tool("tag", OPEN), tool("now", None)]
ARGUMENTS: dict[str, Any] = {
    "weather": WEATHER, "tag": OPEN, "now": {"type": "object", "maxProperties": 0},
}  # fmt: skip


@dataclass
class Said:
    """One answer, whole or put together from a stream."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    finish: str | None = None


@pytest.fixture(scope="module")
def box() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        config = Path(folder) / "hearthd.toml"
        config.write_text(CONFIG + (CANARY if HAS_LLAMA else ""))
        with running(Path(folder), "--config", str(config)) as daemon:
            daemon.until_ready()
            yield daemon


@pytest.fixture
async def client(box: Daemon) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"http://{box.address()}/v1", api_key="none", max_retries=0
    ) as opened:
        yield opened


async def ask(client: AsyncOpenAI, model: str, *, stream: bool, **fields: Any) -> Said:
    """One answer to a question that has nothing to do with it."""
    asked: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": "Repeat: nonsense"}],
        "max_tokens": 500,
        "temperature": 1.2,
        **fields,
    }
    if not stream:
        answer = await client.chat.completions.create(**asked)
        (choice,) = answer.choices
        calls = choice.message.tool_calls or []
        return Said(
            choice.message.content or "",
            [(call.function.name, call.function.arguments) for call in calls],
            choice.finish_reason,
        )
    said = Said()
    parts: dict[int, list[str]] = {}
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        choice = chunk.choices[0]
        said.content += choice.delta.content or ""
        said.finish = choice.finish_reason or said.finish
        for part in choice.delta.tool_calls or ():
            name, arguments = parts.setdefault(part.index, ["", ""])
            name += part.function.name or ""
            parts[part.index] = [name, arguments + (part.function.arguments or "")]
    said.calls = [(name, arguments) for name, arguments in parts.values()]
    return said


async def ask_all(client: AsyncOpenAI, asked: list[dict[str, Any]]) -> list[Said]:
    """Some at a time; the answers in order."""
    gate = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(fields: dict[str, Any]) -> Said:
        async with gate:
            return await ask(client, **fields)

    return await asyncio.gather(*(one(fields) for fields in asked))


def check_content(said: Said, schema: dict[str, Any]) -> bool:
    """Fail unless an answer that is whole is valid; whether it is whole."""
    assert not said.calls
    if said.finish == "length":
        return False
    assert said.finish == "stop"
    jsonschema.Draft202012Validator(schema).validate(json.loads(said.content))
    return True


def check_calls(said: Said, takes: dict[str, Any], most: int) -> bool:
    """Fail unless all calls are right, and there are some; whether the answer is whole."""
    if said.finish == "length":
        return False
    assert said.finish == "tool_calls"
    assert not said.content
    assert 1 <= len(said.calls) <= most
    for name, arguments in said.calls:
        assert name in takes
        jsonschema.Draft202012Validator(takes[name]).validate(json.loads(arguments))
    return True


def schema_format(schema: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema, "strict": strict}
    return {"type": "json_schema", "json_schema": named}


def with_tools(schema: dict[str, Any], random: Random) -> tuple[dict[str, Any], Any]:
    """The schema as what a tool takes, or as what an answer is held to where the model may call tools."""
    if random.random() < 0.5 and "$ref" not in json.dumps(schema):
        takes = {"type": "object", "properties": {"value": schema}, "required": ["value"]}
        forced: dict[str, Any] = {"tools": [tool("only", takes)], "tool_choice": "required"}
        return forced, lambda said: check_calls(said, {"only": takes}, 64)
    strict = [tool(name, taken, strict=True) for name, taken in ARGUMENTS.items()]
    say: dict[str, Any] = {"tools": strict, "response_format": schema_format(schema, strict=True)}

    def check(said: Said) -> bool:
        return check_calls(said, ARGUMENTS, 64) if said.calls else check_content(said, schema)

    return say, check


def matrix(model: str, stream: bool, n: int) -> list[tuple[dict[str, Any], Any]]:
    """Requests over all schemas and ways to say them, and how each answer is checked."""
    random = Random(f"{model} {stream}")
    cells: list[tuple[dict[str, Any], Any]] = []
    for schema in SCHEMAS.values():
        for _ in range(n):
            say: dict[str, Any] = random.choice([
                {"response_format": schema_format(schema, strict=True)},
                {"response_format": schema_format(schema, strict=False)},
                {"extra_body": {"guided_json": schema}},
                {"extra_body": {"structured_outputs": {"json": json.dumps(schema)}}},
                {"response_format": schema_format(schema, strict=True), "tools": TOOLS,
                 "tool_choice": "none"},
            ])  # fmt: skip
            cells.append((say, lambda said, schema=schema: check_content(said, schema)))
            cells.append(with_tools(schema, random))
    cells += [
        (
            {"response_format": {"type": "json_object"}},
            lambda said: check_content(said, {"type": "object"}),
        ),
    ] * n
    forced: list[tuple[dict[str, Any], dict[str, Any], int]] = [
        ({"tool_choice": "required"}, ARGUMENTS, 64),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ARGUMENTS, 1),
        ({"tool_choice": {"type": "function", "function": {"name": "tag"}}}, {"tag": OPEN}, 1),
    ]
    for say, takes, most in forced * (4 * n):
        check = lambda said, takes=takes, most=most: check_calls(said, takes, most)  # noqa: E731
        cells.append(({"tools": TOOLS, **say}, check))
    return [
        ({"model": model, "stream": stream, "seed": random.randrange(10**9), **say}, check)
        for say, check in cells
    ]


async def run_matrix(client: AsyncOpenAI, cells: list[tuple[dict[str, Any], Any]]) -> None:
    answers = await ask_all(client, [fields for fields, _ in cells])
    n_whole = sum(check(said) for said, (_, check) in zip(answers, cells, strict=True))
    assert n_whole > 0.6 * len(cells)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS_AT_LENGTH)
async def test_every_whole_answer_is_valid(client: AsyncOpenAI, model: str, stream: bool) -> None:
    await run_matrix(client, matrix(model, stream, n=1))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS_AT_LENGTH)
async def test_hundreds_of_answers_are_valid(client: AsyncOpenAI, model: str, stream: bool) -> None:
    n = 10 if model == "sim" else 2  # the canary's nonsense is long
    await run_matrix(client, matrix(model, stream, n=n))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS_AT_LENGTH)
async def test_strict_tools_or_json_in_free_choice(
    client: AsyncOpenAI, model: str, stream: bool
) -> None:
    strict = [tool("weather", WEATHER, strict=True), tool("tag", OPEN, strict=True)]
    schema = SCHEMAS["closed object"]
    fields: dict[str, Any] = {
        "model": model,
        "stream": stream,
        "tools": strict,
        "response_format": schema_format(schema, strict=True),
    }
    answers = await ask_all(client, [{**fields, "seed": seed} for seed in range(12)])
    n_calls = 0
    for said in answers:
        if said.calls:
            n_calls += check_calls(said, {"weather": WEATHER, "tag": OPEN}, 64)
        else:
            check_content(said, schema)
    assert n_calls < len(answers)


@pytest.mark.parametrize("stream", [False, True])
async def test_calls_that_a_model_makes_by_itself(client: AsyncOpenAI, stream: bool) -> None:
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
    chat: list[Any] = [{"role": "system", "content": "."}, {"role": "user", "content": ""}]
    fields: dict[str, Any] = {"model": "echo", "stream": stream, "tools": TOOLS, "temperature": 0}
    for text, content, calls in [
        (call.replace("\n", " "), "", [("weather", '{"city": "Köln"}')]),
        ("Well: " + call.replace("\n", ""), "Well: ", [("weather", '{"city": "Köln"}')]),
        ("no <tool_call> at all", "no <tool_call> at all", []),
    ]:
        chat[1] = {"role": "user", "content": text}
        said = await ask(client, **{**fields, "messages": chat})
        assert said.calls == calls
        assert said.content == content
        assert said.finish == ("tool_calls" if calls else "stop")


async def test_a_whole_conversation_with_a_tool(client: AsyncOpenAI) -> None:
    chat: list[Any] = [{"role": "user", "content": "Weather?"}]
    first = await client.chat.completions.create(
        model="sim", messages=chat, tools=TOOLS, tool_choice="required", max_tokens=500, seed=1
    )
    message = first.choices[0].message
    assert message.tool_calls
    chat.append(message)
    chat += [
        {"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in message.tool_calls
    ]
    second = await client.chat.completions.create(
        model="sim", messages=chat, tools=TOOLS, max_tokens=20, seed=2
    )
    assert second.choices[0].message.content
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_expressions_choices_and_grammars(
    client: AsyncOpenAI, model: str, stream: bool
) -> None:
    pattern = r"(north|south)-[0-9]{2,3}"
    grammar = 'start: "sum " NUMBER (" + " NUMBER){1,3}\nNUMBER: /[1-9][0-9]{0,2}/'
    gbnf = 'root ::= "v" [0-9] "." [0-9]'
    for extra, expected in [
        ({"guided_regex": pattern}, pattern),
        ({"structured_outputs": {"choice": ["yes", "no", "per|haps"]}}, r"yes|no|per\|haps"),
        ({"guided_grammar": grammar}, r"sum \d{1,3}( \+ \d{1,3}){1,3}"),
        ({"guided_grammar": gbnf}, r"v\d\.\d"),
    ]:
        said = await ask(client, model, stream=stream, extra_body=extra)
        assert said.finish == "stop"
        assert re.fullmatch(expected, said.content)


async def test_completions_too(client: AsyncOpenAI) -> None:
    for model in ("sim", "canary") if HAS_LLAMA else ("sim",):
        answer = await client.completions.create(
            model=model,
            prompt="x",
            n=3,
            max_tokens=50,
            extra_body={"guided_choice": ["left", "right"]},
        )
        assert {choice.text for choice in answer.choices} <= {"left", "right"}


async def test_what_cannot_be_seen_to_is_refused_by_its_path(client: AsyncOpenAI) -> None:
    unique: dict[str, Any] = {
        "type": "object",
        "properties": {"t": {"type": "array", "uniqueItems": True}},
    }
    path = "properties.t.uniqueItems"
    forced: dict[str, Any] = {
        "tool_choice": "required",
        "tools": [tool("weather", WEATHER), tool("bad", unique)],
    }
    for fields, param in [
        (
            {"response_format": schema_format(unique, strict=True)},
            f"response_format.json_schema.schema.{path}",
        ),
        ({"extra_body": {"guided_json": unique}}, f"guided_json.{path}"),
        ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
        ({"extra_body": {"guided_grammar": "start: nothing"}}, "guided_grammar"),
        (forced, f"tools[1].function.parameters.{path}"),
    ]:
        for stream in (False, True):
            with pytest.raises(BadRequestError) as caught:
                await ask(client, "sim", stream=stream, **fields)
            assert caught.value.param == param
            assert caught.value.code in ("unsupported", "invalid_value")


async def test_a_schema_without_bottom_disturbs_nobody(client: AsyncOpenAI) -> None:
    deep: dict[str, Any] = {"type": "integer"}
    for _ in range(300):
        deep = {"properties": {"a": deep}}
    with pytest.raises(BadRequestError, match="deep"):
        await ask(client, "sim", stream=False, extra_body={"guided_json": deep})
    said = await ask(client, "sim", stream=False, extra_body={"guided_choice": ["fine"]})
    assert said.content == "fine"
