"""Warming: lines of a file as requests whose answers a box should know beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from hearth_tui.errors import UsageError

_CHAT = "/v1/chat/completions"
_TEXT = "/v1/completions"


@dataclass(frozen=True, slots=True)
class WarmRequest:
    """One request, ready to be sent."""

    path: str
    body: dict[str, Any]


def warm_requests(lines: Iterable[bytes], model: str) -> Iterator[WarmRequest]:
    """The requests of a JSONL file; raises UsageError with the line's number.

    A line is a question as a JSON string or as {"question": "…"}, the body of a chat or a completion, or
    a line of OpenAI's batches (`url`, `body`). What has no model gets `model`; what says nothing of
    sampling gets temperature 0, for otherwise its answer would not be kept.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _request(line, number, model)


def _request(line: bytes, number: int, model: str) -> WarmRequest:
    try:
        read = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise UsageError(f"line {number} is no JSON: {error}") from None
    if isinstance(read, str):
        read = {"question": read}
    if not isinstance(read, dict):
        raise UsageError(f"line {number} is neither a question nor a request")
    path, body = _path_and_body(read, number)
    body = {"model": model, **body, "stream": False}
    body.pop("stream_options", None)
    if body.get("temperature") is None and body.get("seed") is None:
        body["temperature"] = 0
    return WarmRequest(path, body)


def _path_and_body(read: dict[str, Any], number: int) -> tuple[str, dict[str, Any]]:
    if isinstance(read.get("body"), dict):
        path = read.get("url", _CHAT)
        if path not in (_CHAT, _TEXT):
            raise UsageError(f"line {number}: url must be {_CHAT} or {_TEXT}")
        return str(path), dict(read["body"])
    if isinstance(read.get("question"), str):
        rest = {name: value for name, value in read.items() if name != "question"}
        return _CHAT, {**rest, "messages": [{"role": "user", "content": read["question"]}]}
    if "messages" in read:
        return _CHAT, read
    if "prompt" in read:
        return _TEXT, read
    raise UsageError(f"line {number} has none of question, messages, prompt and body")
