"""What an answer has to be, from every field that can say it to the frame that engines get."""

from __future__ import annotations

from typing import Any

import pytest
from fake_serving import FakeServing
from openai import AsyncOpenAI
from pydantic import BaseModel

from hearthd import wire

MESSAGES: list[Any] = [{"role": "user", "content": "Say hello"}]
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}
ANY = {"type": "object"}

FIELDS: list[tuple[dict[str, Any], wire.Constraint | None]] = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, wire.JsonConstraint(ANY, "response_format")),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": SCHEMA},
            }
        },
        wire.JsonConstraint(SCHEMA, "response_format.json_schema.schema"),
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
            }
        },
        wire.JsonConstraint(SCHEMA, "response_format.json_schema.schema"),
    ),
    ({"guided_json": SCHEMA}, wire.JsonConstraint(SCHEMA, "guided_json")),
    ({"guided_json": '{"type": "object"}'}, wire.JsonConstraint(ANY, "guided_json")),
    ({"guided_json": True}, wire.JsonConstraint(True, "guided_json")),
    ({"guided_regex": "a+"}, wire.RegexConstraint("a+", "guided_regex")),
    ({"guided_choice": ["a", "b"]}, wire.ChoiceConstraint(["a", "b"], "guided_choice")),
    ({"guided_grammar": "start: X"}, wire.GrammarConstraint("start: X", "guided_grammar")),
    (
        {"structured_outputs": {"json": SCHEMA}},
        wire.JsonConstraint(SCHEMA, "structured_outputs.json"),
    ),
    (
        {"structured_outputs": {"json_object": True}},
        wire.JsonConstraint(ANY, "structured_outputs.json_object"),
    ),
    (
        {"structured_outputs": {"regex": "a+", "disable_fallback": True}},
        wire.RegexConstraint("a+", "structured_outputs.regex"),
    ),
    (
        {"structured_outputs": {"choice": ["a"]}},
        wire.ChoiceConstraint(["a"], "structured_outputs.choice"),
    ),
    (
        {"structured_outputs": {"grammar": "start: X"}},
        wire.GrammarConstraint("start: X", "structured_outputs.grammar"),
    ),
    ({"structured_outputs": {}, "guided_json": None}, None),
]


@pytest.mark.parametrize(("fields", "constraint"), FIELDS, ids=repr)
async def test_each_field_becomes_a_constraint(
    serving: FakeServing,
    openai: AsyncOpenAI,
    fields: dict[str, Any],
    constraint: wire.Constraint | None,
) -> None:
    await openai.chat.completions.create(model="canary", messages=MESSAGES, extra_body=fields)
    await openai.completions.create(model="canary", prompt="x", n=2, extra_body=fields)
    assert [submit.constraint for submit in serving.submits] == [constraint] * 3
    assert not any(submit.calls_tools for submit in serving.submits)


async def test_the_order_of_properties_is_that_of_the_client(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    await openai.chat.completions.create(
        model="canary", messages=MESSAGES, extra_body={"guided_json": SCHEMA}
    )
    constraint = serving.submits[0].constraint
    assert isinstance(constraint, wire.JsonConstraint)
    assert isinstance(constraint.schema, dict)
    assert list(constraint.schema["properties"]) == ["b", "a"]


class Point(BaseModel):
    x: int
    y: int


async def test_a_class_of_the_client_becomes_a_schema(
    serving: FakeServing, openai: AsyncOpenAI
) -> None:
    from fake_serving import spell

    serving.script = spell('{"x": 1, ', '"y": 2}')
    answer = await openai.chat.completions.parse(
        model="canary", messages=MESSAGES, response_format=Point
    )
    assert answer.choices[0].message.parsed == Point(x=1, y=2)
    constraint = serving.submits[0].constraint
    assert isinstance(constraint, wire.JsonConstraint)
    assert isinstance(constraint.schema, dict)
    assert constraint.schema["required"] == ["x", "y"]
