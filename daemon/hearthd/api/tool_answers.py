"""Calls of tools in OpenAI's shapes, and the readers that find them in the text of choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from hearthd import wire
from hearthd.api.tool_calls import ToolCallParser
from hearthd.api.tool_events import CallArguments, CallIds, CallStart, Content, Event
from hearthd.api.tools import ToolUse


class FunctionPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name with the first part, and a piece of the arguments."""

    arguments: str
    name: str | None = None


class CallPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a call."""

    index: int
    function: FunctionPart
    id: str | None = None
    type: str | None = None


class Function(msgspec.Struct, frozen=True):
    """What is called, and with what: JSON as text."""

    name: str
    arguments: str


class ToolCallAnswer(msgspec.Struct, frozen=True):
    """A whole call."""

    id: str
    function: Function
    type: Literal["function"] = "function"


class ToolReaders:
    """One parser for each choice of a request."""

    def __init__(self, use: ToolUse, form: wire.ToolFormat | None, answer_id: str) -> None:
        """`form`: the one the model speaks, where its template teaches one.

        Ids of calls follow from `answer_id`: an answer that is told again has the same ones.
        """
        self._use = use
        self._answer_id = answer_id
        self._form: wire.ToolFormat = form or wire.DEFAULT_TOOL_FORMAT
        self._parsers: dict[int, ToolCallParser] = {}

    def read(self, choice: int, delta: wire.Delta) -> list[Event]:
        """What a delta of a choice turns out to say."""
        parser = self._parsers.get(choice)
        if parser is None:
            use = self._use
            parser = self._parsers[choice] = ToolCallParser(
                self._form,
                use.names,
                eager=use.constraint is not None,
                parallel=use.parallel,
                new_id=CallIds(f"{self._answer_id}/{choice}").next,
            )
        events = parser.feed(delta.text)
        return events if delta.finish is None else events + parser.finish()

    def finish_reason(self, choice: int, finish: str | None) -> str | None:
        """A choice that came to its own end and calls tools ends for that reason."""
        parser = self._parsers.get(choice)
        return "tool_calls" if finish == "stop" and parser and parser.n_calls else finish


def call_part(event: Event) -> CallPart | None:
    """What an event adds to a call; None where it adds nothing that is told."""
    match event:
        case CallStart():
            return CallPart(event.index, FunctionPart("", event.name), event.id, "function")
        case CallArguments():
            return CallPart(event.index, FunctionPart(event.text))
        case _:
            return None


def content_of(events: Sequence[Event]) -> str:
    """All text among events."""
    return "".join([event.text for event in events if isinstance(event, Content)])


def calls_of(events: Sequence[Event]) -> list[ToolCallAnswer]:
    """All calls among events, whole."""
    starts = [event for event in events if isinstance(event, CallStart)]
    pieces = [event for event in events if isinstance(event, CallArguments)]
    return [
        ToolCallAnswer(
            start.id,
            Function(
                start.name, "".join([piece.text for piece in pieces if piece.index == start.index])
            ),
        )
        for start in starts
    ]
