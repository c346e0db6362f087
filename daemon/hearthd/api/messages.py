"""Messages: a chat as the model's template takes it, from the many shapes that clients send."""

from __future__ import annotations

import difflib
from typing import Any

import msgspec

from hearthd.api.carriable import check_carriable
from hearthd.api.refusals import unsupported
from hearthd.api.schema import ContentPart, Message, ToolCall
from hearthd.errors import InvalidRequest

_ROLES = {
    "system": "system",
    "developer": "system",  # its newer name; templates know the older one
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


def template_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """Plain dicts for the template; raises InvalidRequest with the path of the field."""
    return [_of_one(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _of_one(message: Message, at: str) -> dict[str, Any]:
    role = _ROLES.get(message.role)
    if role is None:
        raise _unknown_role(message.role, f"{at}.role")
    plain: dict[str, Any] = {"role": role, "content": _content(message, at)}
    if message.name is not None:
        plain["name"] = message.name
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        plain["tool_calls"] = [
            _tool_call(call, f"{at}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)
        ]
    return plain


def _content(message: Message, at: str) -> str:
    """The text of a message; its parts are joined by line ends."""
    content = message.content
    if isinstance(content, str):
        return content
    if content is None:
        if message.role == "assistant":
            return ""
        raise InvalidRequest(
            f"{at}.content: is required in a message of role {message.role}", param=f"{at}.content"
        )
    return "\n".join(_part(part, f"{at}.content[{i}]") for i, part in enumerate(content))


def _part(part: ContentPart, at: str) -> str:
    if part.type != "text":
        raise unsupported(
            f"{at}.type", f"parts of type {part.type!r} are not served; models here read text"
        )
    if part.text is None:
        raise InvalidRequest(f"{at}.text: is required", param=f"{at}.text")
    return part.text


def _tool_call(call: ToolCall, at: str) -> dict[str, Any]:
    """A past call; templates want its arguments as an object, clients send them as text."""
    arguments, field = call.function.arguments, f"{at}.function.arguments"
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"{field}: is not a JSON object", param=field) from error
    check_carriable(arguments, field)
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _unknown_role(role: str, at: str) -> InvalidRequest:
    near = difflib.get_close_matches(role, _ROLES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InvalidRequest(f"{at}: {role!r} is none of {', '.join(_ROLES)}{hint}", param=at)
