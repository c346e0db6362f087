"""Tools told in plain messages, for models whose chat template knows nothing of tools; pure.

The model is taught the form of Hermes, which is also the one that it is then read in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_LESSON = """You may call functions to answer. Each line between <tools> and </tools> describes one:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as JSON between these marks, and nothing else:
<tool_call>
{{"name": <name>, "arguments": <arguments>}}
</tool_call>
What it returned comes between <tool_response> and </tool_response>."""


def as_plain_messages(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The same chat without tools and calls: they are part of the messages' texts."""
    plain = [_as_plain(message) for message in messages]
    return _with_lesson(plain, _LESSON.format(tools=_lines(tools))) if tools else plain


def speaks_of_tools(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a chat holds calls, or what they returned."""
    return any(message.get("tool_calls") or message["role"] == "tool" for message in messages)


def _with_lesson(messages: list[dict[str, Any]], lesson: str) -> list[dict[str, Any]]:
    """The lesson ends the system's message; without one it begins the first: some templates take none."""
    first, *others = messages
    texts = [first["content"], lesson] if first["role"] == "system" else [lesson, first["content"]]
    return [{**first, "content": "\n\n".join(text for text in texts if text)}, *others]


def _as_plain(message: Mapping[str, Any]) -> dict[str, Any]:
    content = str(message["content"])
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = message.get("tool_calls") or ()
    texts = [content] if content else []
    for call in calls:
        function = call["function"]
        said = {"name": function["name"], "arguments": function["arguments"]}
        texts.append(f"<tool_call>\n{json.dumps(said, ensure_ascii=False)}\n</tool_call>")
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": "\n".join(texts)}


def _lines(tools: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
