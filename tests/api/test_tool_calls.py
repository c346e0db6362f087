"""Tests of the parser of tool calls: every form, every cut, and what only looks like a call."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearthd import wire
from hearthd.api.tool_calls import ToolCallParser
from hearthd.api.tool_events import (
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    joined,
    new_call_id,
)

NAMES = ("get_weather", "add")
FORMS: list[wire.ToolFormat] = ["hermes", "llama3", "mistral", "mistral-args"]

ONE: dict[wire.ToolFormat, str] = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": [1, "}"]}}\n</tool_call>',
    "llama3": '{"name": "add", "parameters": {"a": [1, "}"]}}',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": [1, "}"]}}]',
    "mistral-args": '[TOOL_CALLS]add[ARGS]{"a": [1, "}"]}',
}
TWO: dict[wire.ToolFormat, str] = {
    "hermes": ONE["hermes"] + "\n" + ONE["hermes"].replace("add", "get_weather"),
    "llama3": ONE["llama3"] + "; " + ONE["llama3"].replace("add", "get_weather"),
    "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": [1, "}"]}}, '
    '{"name": "get_weather", "arguments": {"a": [1, "}"]}, "id": "abcdefghi"}]',
    "mistral-args": ONE["mistral-args"] + ONE["mistral-args"].replace("add", "get_weather"),
}
ARGUMENTS = '{"a": [1, "}"]}'


def parse(
    form: wire.ToolFormat, parts: Sequence[str], *, eager: bool = False, parallel: bool = True
) -> list[Event]:
    """The events of a text in parts, joined; the ids are those of the places."""
    numbers = iter(range(100))
    parser = ToolCallParser(
        form, NAMES, eager=eager, parallel=parallel, new_id=lambda _: f"id{next(numbers)}"
    )
    events = [event for part in parts for event in parser.feed(part)]
    return joined([*events, *parser.finish()])


def call(index: int, name: str, arguments: str = ARGUMENTS) -> list[Event]:
    return [CallStart(index, f"id{index}", name), CallArguments(index, arguments), CallEnd(index)]


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("form", FORMS)
class TestForms:
    def test_one_call(self, form: wire.ToolFormat, eager: bool) -> None:
        assert parse(form, [ONE[form]], eager=eager) == call(0, "add")

    def test_letter_by_letter(self, form: wire.ToolFormat, eager: bool) -> None:
        text = f"  {TWO[form]}\n"
        assert parse(form, list(text), eager=eager) == call(0, "add") + call(1, "get_weather")

    def test_only_the_first(self, form: wire.ToolFormat, eager: bool) -> None:
        assert parse(form, [TWO[form]], eager=eager, parallel=False) == call(0, "add")

    def test_text_around(self, form: wire.ToolFormat, eager: bool) -> None:
        events = parse(form, [f"I add:\n{ONE[form]}\nDone."], eager=eager)
        assert events == [Content("I add:\n"), *call(0, "add"), Content("\nDone.")]

    def test_plain_text_goes_out_at_once(self, form: wire.ToolFormat, eager: bool) -> None:
        parser = ToolCallParser(form, NAMES, eager=eager)
        assert parser.feed("Hello") == [Content("Hello")]
        assert parser.feed(", a < b\n") == [Content(", a < b\n")]
        assert parser.finish() == []

    def test_whitespace_alone_is_an_answer(self, form: wire.ToolFormat, eager: bool) -> None:
        assert parse(form, [" \n", " "], eager=eager) == [Content(" \n ")]

    def test_what_is_cut_short(self, form: wire.ToolFormat, eager: bool) -> None:
        for n in range(len(ONE[form])):
            events = parse(
                form,
                ["Well. ", ONE[form][:n]] if form != "llama3" else [ONE[form][:n]],
                eager=eager,
            )
            text = "".join(e.text for e in events if isinstance(e, Content))
            if any(isinstance(e, CallStart) for e in events):
                assert "name" not in text
                assert eager or any(isinstance(e, CallEnd) for e in events)
            else:
                assert text == ("Well. " if form != "llama3" else "") + ONE[form][:n]


@pytest.mark.parametrize("form", FORMS)
def test_an_eager_parser_sends_arguments_as_they_come(form: wire.ToolFormat) -> None:
    parser = ToolCallParser(form, NAMES, eager=True)
    pieces = []
    for letter in ONE[form]:
        pieces += [e.text for e in parser.feed(letter) if isinstance(e, CallArguments)]
    assert pieces == list(ARGUMENTS)


PROSE = ["Hello. ", "\n", " ", "a < b", "{", "}", '{"x": 1}', "\n{\n", "é😀", "[1]", '"', ", ", ";"]
MARKS = [
    "<tool_call>", "</tool_call>", "<tool_", "<|python_tag|>", "<|py", "[TOOL_CALLS]", "[TOOL", "[ARGS]",
    "[CALL_ID]", "]",
]  # fmt: skip
CALLS = [
    '{"name": "add", "arguments": {"a": 1}}',
    '{"name": "add", "parameters": {}}',
    '{"arguments": {"a": "\\"}"}, "name": "add"}',
    '{"name": "nobody", "arguments": {}}',
    '{"name": "add"}',
    '{"name": "add", "arguments": "{\\"a\\": 1}"}',
    '{"name": "add", "arguments": {bad}}',
    '{"name": "add", "arguments": {"a": 1}',
    '{"name": 3, "arguments": {}}',
    "{'name': 'add'}",
    '{"name": "ad',
    "add",
    *ONE.values(),
    *TWO.values(),
]


@settings(max_examples=400, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    pieces=st.lists(st.sampled_from(PROSE + MARKS + CALLS), max_size=8),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    eager=st.booleans(),
    parallel=st.booleans(),
)
def test_any_cut_of_a_text_gives_the_same(
    form: wire.ToolFormat, pieces: list[str], cuts: list[int], eager: bool, parallel: bool
) -> None:
    text = "".join(pieces)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parts = [text[a:b] for a, b in pairwise(places)]
    whole = parse(form, [text], eager=eager, parallel=parallel)
    assert parse(form, parts, eager=eager, parallel=parallel) == whole
    assert parse(form, list(text), eager=eager, parallel=parallel) == whole


@settings(max_examples=300, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    pieces=st.lists(st.sampled_from(PROSE + MARKS + CALLS), max_size=8),
)
def test_calls_are_right_and_nothing_else_is_lost(form: wire.ToolFormat, pieces: list[str]) -> None:
    text = "".join(pieces)
    events = parse(form, [text])
    for event in events:
        if isinstance(event, CallArguments):
            assert isinstance(json.loads(event.text), dict)
    if not any(isinstance(event, CallStart) for event in events):
        assert events == ([Content(text)] if text else [])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "broken",
    [
        '{"name": "add", "arguments": {"a": }}',
        '{"name": "add", "arguments": {"a": {"b": 1}',
        "{'name': 'add', 'arguments': {}}",
        '{"name": "add", "arguments": [1]}',
        '{"arguments": {"a": 1}}',
        '{"name": "", "arguments": {}}',
        '{"name": "add", "arguments": {"a": NaN}}',
    ],
)
def test_a_broken_call_is_content(form: wire.ToolFormat, broken: str) -> None:
    if form == "mistral-args":
        if '"add"' not in broken:
            return  # the name stands outside the object
        broken = broken.replace('{"name": "add", "arguments": ', "add[ARGS]")
    before = {"hermes": "<tool_call>", "llama3": "<|python_tag|>"}.get(form, "[TOOL_CALLS]")
    text = before + broken + "\nand more"
    assert parse(form, [text]) == [Content(text)]


def test_a_name_may_stand_after_the_arguments() -> None:
    text = '<tool_call>{"arguments": {"b": 2}, "name": "add"}</tool_call>'
    for eager in (False, True):
        assert parse("hermes", [text], eager=eager) == call(0, "add", '{"b": 2}')


def test_arguments_may_be_missing_or_a_string() -> None:
    assert parse("hermes", ['<tool_call>{"name": "add"}</tool_call>']) == call(0, "add", "{}")
    text = '<tool_call>{"name": "add", "arguments": "{\\"b\\": 2}"}</tool_call>'
    assert parse("hermes", [text]) == call(0, "add", '{"b": 2}')


def test_closing_marks_may_be_missing() -> None:
    text = '<tool_call>{"name": "add", "arguments": {}}\n{"name": "add", "arguments": {}}'
    assert parse("hermes", [text]) == call(0, "add", "{}") + call(1, "add", "{}")


def test_json_that_is_no_call_is_content_without_a_mark() -> None:
    for text in (
        '{"name": "Mary", "parameters": {"age": 3}}',
        '{"title": "add", "parameters": {}}',
        'int f() {\n{"name": "add"} }',
        'so: {"name": "add", "parameters": {}}',
    ):
        assert parse("llama3", list(text)) == [Content(text)]


def test_an_object_of_other_keys_is_not_held_up() -> None:
    parser = ToolCallParser("llama3", NAMES)
    assert parser.feed('{"t') == []  # it may become "type"
    assert parser.feed("itle") == [Content('{"title')]
    assert parser.feed('": 1}') == [Content('": 1}')]


def test_llama_may_mark_its_call() -> None:
    assert parse("llama3", ["<|python_tag|>" + ONE["llama3"]]) == call(0, "add")
    text = "<|python_tag|>brave_search.call(query='x')"
    assert parse("llama3", [text]) == [Content(text)]


def test_mistral_may_number_its_call() -> None:
    text = '[TOOL_CALLS]add[CALL_ID]x1y2z3a4b[ARGS]{"a": 1}'
    assert parse("mistral-args", list(text)) == call(0, "add", '{"a": 1}')


def test_ids_are_what_templates_take() -> None:
    assert re.fullmatch("[A-Za-z0-9]{9}", new_call_id("mistral"))
    assert new_call_id("hermes").startswith("call_")
    assert new_call_id("llama3") != new_call_id("llama3")
