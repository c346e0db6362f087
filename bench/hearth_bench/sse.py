"""Server-sent events of an OpenAI stream: bytes in, chunks out, cheap enough for one thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """What the server counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: dict[str, Any] | None = None

    @property
    def n_cached(self) -> int | None:
        """Prompt tokens that came from a cache; None where the server does not say."""
        found = (self.prompt_tokens_details or {}).get("cached_tokens")
        return found if isinstance(found, int) else None


class _Content(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str | None = None
    delta: _Content | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct, frozen=True):
    """One event's data, of a completion or of a chat."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    error: Any = None

    @property
    def text(self) -> str:
        """The text it adds; a model's thoughts count as text."""
        return "".join(
            choice.text
            or (choice.delta and (choice.delta.content or choice.delta.reasoning_content))
            or ""
            for choice in self.choices
        )

    @property
    def says_something(self) -> bool:
        """Whether it carries output, not only a role, a finish or usage."""
        return any(
            choice.text
            or (
                choice.delta
                and (
                    choice.delta.content
                    or choice.delta.reasoning_content
                    or choice.delta.tool_calls
                )
            )
            for choice in self.choices
        )

    @property
    def finish(self) -> str | None:
        """Why the output ended, if it did."""
        return next((c.finish_reason for c in self.choices if c.finish_reason), None)


_decoder = msgspec.json.Decoder(Chunk)


class EventStream:
    """Cuts a response's bytes into chunks; `done` once the server has said so."""

    __slots__ = ("_rest", "done")

    def __init__(self) -> None:
        self._rest = b""
        self.done = False

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that are whole now; raises msgspec.DecodeError for data that is no chunk.

        Lines end in LF or CRLF. Comments and fields other than `data` are skipped: servers of this
        API put each event's data on one line.
        """
        lines = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            body = line[5:].strip()
            if body == b"[DONE]":
                self.done = True
            else:
                yield _decoder.decode(body)
