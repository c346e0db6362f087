"""Messages: every shape that clients send becomes what a chat template takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hearthd import wire
from hearthd.api.messages import template_messages
from hearthd.api.schema import Message
from hearthd.errors import InvalidRequest


def _convert(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return template_messages(msgspec.convert(list(messages), list[Message]))


def test_roles_and_names() -> None:
    assert _convert(
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "eve"},
        {"role": "assistant", "content": None},
    ) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "eve"},
        {"role": "assistant", "content": ""},
    ]


def test_text_parts_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert _convert({"role": "user", "content": parts})[0]["content"] == "a\nb"


def test_an_empty_list_of_parts_is_an_empty_text() -> None:
    assert _convert({"role": "user", "content": []})[0]["content"] == ""


def test_past_calls_have_their_arguments_as_objects() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    assistant, tool = _convert(
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "c1"},
    )
    assert assistant["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    ]
    assert tool == {"role": "tool", "content": "2", "tool_call_id": "c1"}


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "refusal", "video_url"])
def test_other_parts_are_refused_with_their_place(kind: str) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind}]},
    ]
    with pytest.raises(InvalidRequest, match=kind) as caught:
        _convert(*messages)
    assert caught.value.param == "messages[1].content[1].type"
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"x": 1', "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"x": %s}' % (2**64), "64 bits"),
        ('{"x": %s}' % ("[" * 5000 + "]" * 5000), "not a JSON object"),
    ],
)
def test_arguments_that_no_frame_can_carry(arguments: str, says: str) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(InvalidRequest, match=says) as caught:
        _convert({"role": "assistant", "tool_calls": [call]})
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_nesting_is_refused_before_it_is_too_deep_for_a_frame(depth: int) -> None:
    """Whatever passes can be sent on, from deeper in the stack than here too."""
    call = {"function": {"name": "f", "arguments": '{"x": %s}' % ("[" * depth + "]" * depth)}}
    try:
        messages = _convert({"role": "assistant", "tool_calls": [call]})
    except InvalidRequest:
        return
    assert wire.encode(wire.Submit(rid=1, sampling=wire.Sampling(), messages=messages))
