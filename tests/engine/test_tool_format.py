"""Tests of the forms of tool calls: told from templates, forced by grammars, read by the API."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import tool_templates
from random_model import RandomModel

from hearth_backends.sim.tokenizer import CHAT_TEMPLATE, ByteTokenizer
from hearthd import wire
from hearthd.api.tool_calls import ToolCallParser
from hearthd.api.tool_events import CallArguments, CallEnd, CallStart, Content, Event
from hearthd.engine.chat import ChatTemplate, TemplateRefused
from hearthd.engine.grammar import GrammarFactory
from hearthd.engine.tool_format import detect
from hearthd.engine.tool_prompt import as_plain_messages, speaks_of_tools

FORMS: list[wire.ToolFormat] = ["hermes", "llama3", "mistral", "mistral-args"]
TEMPLATES = {
    "hermes": tool_templates.HERMES,
    "llama3": tool_templates.LLAMA3,
    "mistral": tool_templates.MISTRAL,
    "mistral-args": tool_templates.MISTRAL_ARGS,
}
BYTES = ByteTokenizer(300, add_bos=False)

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 8},
        "days": {"type": "integer", "minimum": 1, "maximum": 14},
        "unit": {"enum": ["C", "F"]},
    },
    "required": ["city"],
    "additionalProperties": False,
}
NOTE: dict[str, Any] = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 10}, "tags": {"$ref": "#/$defs/tags"}},
    "required": ["text", "tags"],
    "$defs": {
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2}
    },
    "additionalProperties": False,
}
TOOLS = [wire.Tool("get_weather", WEATHER), wire.Tool("note", NOTE), wire.Tool("now")]
SCHEMAS = {"get_weather": WEATHER, "note": NOTE, "now": {"type": "object", "maxProperties": 0}}

FUNCTIONS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
]
CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "a1b2c3d4e",
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"city": "Köln"}},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": "rain"},
    {"role": "user", "content": "And now?"},
]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_told_from_its_template(form: str) -> None:
    assert detect(TEMPLATES[form]) == form


def test_templates_without_a_known_form() -> None:
    assert detect(None) is None
    assert detect(CHAT_TEMPLATE) is None
    assert detect(tool_templates.OTHER) is None


@pytest.mark.parametrize("form", FORMS)
def test_templates_take_tools_and_calls(form: str) -> None:
    template = ChatTemplate(TEMPLATES[form], bos="<s>", eos="</s>")
    assert template.takes_tools
    chat = CHAT if form != "mistral" else CHAT[1:]
    text = template.render(chat, {"tools": FUNCTIONS})
    assert '"get_weather"' in text
    assert '{"city": "Köln"}' in text
    assert "rain" in text


def test_a_template_may_refuse_an_id() -> None:
    template = ChatTemplate(tool_templates.MISTRAL, bos="", eos="")
    call = {**CHAT[2]["tool_calls"][0], "id": "call_1"}
    with pytest.raises(TemplateRefused, match="nine"):
        template.render([CHAT[1], {**CHAT[2], "tool_calls": [call]}])


def test_a_template_that_knows_no_tools_gets_them_in_words() -> None:
    template = ChatTemplate(CHAT_TEMPLATE, bos="", eos="")
    assert not template.takes_tools
    text = template.render(as_plain_messages(CHAT, FUNCTIONS))
    assert text.startswith("<|im_start|>system\nBe brief.\n\n")
    assert json.dumps(FUNCTIONS[0], ensure_ascii=False) in text
    assert (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>' in text
    )
    assert "<|im_start|>user\n<tool_response>\nrain\n</tool_response><|im_end|>" in text
    first = as_plain_messages(CHAT[1:2], FUNCTIONS)
    assert [message["role"] for message in first] == ["user"]
    assert first[0]["content"].endswith("\n\nWeather?")
    assert as_plain_messages(CHAT[:2], []) == CHAT[:2]


def test_a_chat_speaks_of_tools_or_not() -> None:
    assert not speaks_of_tools(CHAT[:2])
    assert speaks_of_tools(CHAT[:3])
    assert speaks_of_tools(CHAT[3:4])


# --- grammars and the parser ----------------------------------------------------------------------


def read(form: wire.ToolFormat, text: str) -> list[Event]:
    parser = ToolCallParser(form, [tool.name for tool in TOOLS], eager=True)
    events = [event for letter in text for event in parser.feed(letter)]
    return events + parser.finish()


def check_calls(events: list[Event]) -> int:
    """Fail unless all calls are whole and right; how many there are."""
    starts = [e for e in events if isinstance(e, CallStart)]
    assert len([e for e in events if isinstance(e, CallEnd)]) == len(starts)
    for start in starts:
        pieces = [e.text for e in events if isinstance(e, CallArguments) and e.index == start.index]
        jsonschema.Draft202012Validator(SCHEMAS[start.name]).validate(json.loads("".join(pieces)))
    return len(starts)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_forced_call_is_always_right(form: wire.ToolFormat, parallel: bool) -> None:
    factory = GrammarFactory(BYTES, form)
    constraint = wire.ToolConstraint(TOOLS, parallel=parallel)
    counts = set()
    names = set()
    for seed in range(30):
        model = RandomModel(BYTES, seed, awkward=(0.0, 2.0)[seed % 2], end=1.5)
        text, is_whole = model.complete(factory.compile(constraint), 6000)
        assert is_whole
        events = read(form, text)
        assert not [e for e in events if isinstance(e, Content)]
        counts.add(check_calls(events))
        names |= {e.name for e in events if isinstance(e, CallStart)}
    assert names == set(SCHEMAS)
    is_single = not parallel or form == "llama3"
    assert (counts == {1}) is is_single


@pytest.mark.parametrize("form", FORMS)
def test_a_named_call_is_that_one(form: wire.ToolFormat) -> None:
    factory = GrammarFactory(BYTES, form)
    for seed in range(5):
        grammar = factory.compile(wire.ToolConstraint(TOOLS[1:2], parallel=False))
        text, is_whole = RandomModel(BYTES, seed).complete(grammar, 3000)
        assert is_whole
        assert [e.name for e in read(form, text) if isinstance(e, CallStart)] == ["note"]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_calls_in_free_text_are_right(form: wire.ToolFormat, parallel: bool) -> None:
    factory = GrammarFactory(BYTES, form)
    constraint = wire.ToolConstraint(TOOLS, forced=False, parallel=parallel)
    n_calls = n_texts = 0
    for seed in range(30):
        model = RandomModel(BYTES, seed, end=3.0)
        grammar = factory.compile(constraint)
        said = "Well.\n" if seed % 3 else ""
        opening = {"hermes": "<tool_call>", "llama3": "{"}.get(form, "[TOOL_CALLS]")
        if form == "llama3":
            said = ""  # its calls begin the answer
        if seed % 2:
            said += opening
        assert all(grammar.accept(byte) for byte in said.encode())
        text, is_whole = model.complete(grammar, 6000)
        assert is_whole
        events = read(form, said + text)
        n_calls += check_calls(events)
        n_texts += not any(isinstance(e, CallStart) for e in events)
    assert n_calls >= 15
    assert n_texts >= 15


@pytest.mark.parametrize("form", FORMS)
def test_a_mark_is_a_token_where_the_vocabulary_has_one(form: wire.ToolFormat) -> None:
    assert GrammarFactory(BYTES, form).mark("<|im_start|>") == "<[258]>"
    assert GrammarFactory(BYTES, form).mark("<tool_call>") == '"<tool_call>"'
