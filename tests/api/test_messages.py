"""Messages: every shape that clients send becomes what a chat template takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

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
