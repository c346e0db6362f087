"""ToolCallParser: finds calls of tools in what a model writes, while it is written.

The forms are those of `hearthd.engine.tool_format`. What looks like a call and is none is given back as
content; a mark, or a part of one, never shows. A call is held until it is whole and right, unless
`eager`: then a grammar sees to it that it will be, and its arguments go out as they come.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Collection
from typing import Final, TypeAlias

from hearthd import wire
from hearthd.api.json_scan import ObjectScanner
from hearthd.api.tool_events import (
    Call,
    CallArguments,
    CallEnd,
    CallStart,
    Content,
    Event,
    is_object,
    joined,
    name_of,
    new_call_id,
    read_call,
)

_OPENING: Final[dict[wire.ToolFormat, str]] = {
    "hermes": "<tool_call>",
    "llama3": "<|python_tag|>",
    "mistral": "[TOOL_CALLS]",
    "mistral-args": "[TOOL_CALLS]",
}
_CLOSING = "</tool_call>"
_HEADER = re.compile(
    r'\{\s*"name"\s*:\s*(?P<name>"(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
_FIRST_KEYS = ('"name"', '"type"', '"function"', '"arguments"', '"parameters"')
_NAMED = re.compile(r"(?P<name>[\w.\-]+)\s*(?:\[CALL_ID\]\s*[\w\-]*\s*)?(?:\[ARGS\]\s*)?")
_AFTER_NAMED = re.compile(r"[^\w.\-\s\[\]]")  # ends what may stand between a mark and a brace
_LONGEST_NAMED = 256
_BRACE_IN_BLANK_LINE = re.compile(r"(?:^|\n)[^\S\n]*\{")
_BRACE_IN_LATER_LINE = re.compile(r"\n[^\S\n]*\{")

_State: TypeAlias = Callable[[], list[Event] | None]
"""Takes something off the buffer, or says None: it waits for more text."""


class ToolCallParser:
    """Text of one choice in, events out; joined, they are the same however the text is cut."""

    def __init__(
        self,
        form: wire.ToolFormat,
        names: Collection[str],
        *,
        eager: bool = False,
        parallel: bool = True,
        new_id: Callable[[wire.ToolFormat], str] = new_call_id,
    ) -> None:
        """`names`: of the tools; where no mark tells a call from other JSON, its name must be among them.

        Not `parallel`: calls after the first are left out.
        """
        self.n_calls = 0
        self._form = form
        self._mark = _OPENING[form]
        self._names = frozenset(names)
        self._eager = eager
        self._parallel = parallel
        self._new_id = new_id
        self._state: _State = self._text
        self._buffer = ""  # not yet looked at, or not yet decided
        self._raw = ""  # taken off the buffer for the beginning of a call; content if it is none
        self._scanner = ObjectScanner()
        self._n_sent = 0  # characters of the arguments in the buffer that have gone out
        self._name = ""  # of a call whose arguments follow by themselves
        self._is_marked = False
        self._in_list = False
        self._in_object = False  # the arguments that go out are part of an object
        self._line_is_blank = True
        self._blank: str | None = ""  # whitespace that waits for text; None once text has come

    def feed(self, text: str) -> list[Event]:
        """What more text brings."""
        self._buffer += text
        events: list[Event] = []
        while (made := self._state()) is not None:
            events += made
        return self._served(events)

    def finish(self) -> list[Event]:
        """What was held back, when no more text comes."""
        undecided = (self._text, self._open, self._named, self._named_object, self._object)
        is_content = self._state in undecided or self._mark in self._raw
        events = self._release(self._raw + self._buffer) if is_content else []
        if self._blank and not self.n_calls:
            events.append(Content(self._blank))
        return self._served(events)

    def _served(self, events: list[Event]) -> list[Event]:
        if not self._parallel:
            events = [e for e in events if isinstance(e, Content) or e.index == 0]
        return joined(events)

    # --- text ----------------------------------------------------------------------------------

    def _text(self) -> list[Event] | None:
        at, mark = self._opening()
        if at is None:
            text = self._take(len(self._buffer) - _overlap(self._buffer, self._mark))
            return self._release(text) if text else None
        events = self._release(self._take(at))
        self._raw = self._take(len(mark))
        self._is_marked, self._in_list = bool(mark), False
        self._state = self._open
        return events

    def _opening(self) -> tuple[int | None, str]:
        """Where the first call may begin, and its mark, if it has one."""
        at = self._buffer.find(self._mark)
        if self._form == "llama3":
            pattern = _BRACE_IN_BLANK_LINE if self._line_is_blank else _BRACE_IN_LATER_LINE
            brace = pattern.search(self._buffer)
            if brace is not None and (at < 0 or brace.end() <= at):
                return brace.end() - 1, ""
        return (None, "") if at < 0 else (at, self._mark)

    def _release(self, text: str) -> list[Event]:
        """Text as content; whitespace at the start, or after a call, only once text follows it."""
        _, newline, last_line = text.rpartition("\n")
        self._line_is_blank = (bool(newline) or self._line_is_blank) and not last_line.strip()
        if self._blank is not None:
            text = self._blank + text
            if not text.strip():
                self._blank = text
                return []
            self._blank = None
        return [Content(text)] if text else []

    def _give_back(self, n_chars: int) -> list[Event]:
        """It was no call: what was taken for one is content, and the rest is looked at anew."""
        raw, self._raw, self._state = self._raw + self._take(n_chars), "", self._text
        return self._release(raw)

    def _take(self, n_chars: int) -> str:
        taken, self._buffer = self._buffer[:n_chars], self._buffer[n_chars:]
        return taken

    def _skip(self, signs: str = "") -> str:
        """Take whitespace, and some other signs, off the buffer."""
        rest = self._buffer.lstrip(string.whitespace + signs)
        return self._take(len(self._buffer) - len(rest))

    # --- a call begins -------------------------------------------------------------------------

    def _open(self) -> list[Event] | None:
        self._raw += self._skip()
        sign = self._buffer[:1]
        if not sign:
            return None
        if sign == "{":
            return self._scan(self._object)
        if not self._form.startswith("mistral"):
            return self._give_back(0)
        if sign == "[":
            self._raw += self._take(1)
            self._in_list, self._state = True, self._list
        else:
            self._state = self._named
        return []

    def _list(self) -> list[Event] | None:
        """Between the calls of a list, or at its end."""
        self._raw += self._skip(",")
        sign = self._buffer[:1]
        if not sign:
            return None
        if sign == "{":
            return self._scan(self._object)
        if sign == "]" and self._mark not in self._raw:  # at least one call has come
            self._take(1)
            self._raw, self._state = "", self._text
            return []
        return self._give_back(0)

    def _named(self) -> list[Event] | None:
        """A name that stands before its arguments."""
        found = _AFTER_NAMED.search(self._buffer)
        n_chars = len(self._buffer) if found is None else found.start()
        if n_chars > _LONGEST_NAMED:
            return self._give_back(_LONGEST_NAMED)
        if found is None:
            return None
        named = _NAMED.fullmatch(self._buffer, 0, n_chars)
        if named is None or found[0] != "{":
            return self._give_back(n_chars)
        self._raw += self._take(n_chars)
        self._name = named["name"]
        if self._eager:
            return self._flow(self._name, in_object=False)
        return self._scan(self._named_object)

    def _scan(self, state: _State) -> list[Event]:
        self._scanner = ObjectScanner()
        self._state = state
        return []

    # --- a call that is held until it is whole -------------------------------------------------

    def _object(self) -> list[Event] | None:
        """An object with a name and arguments in it."""
        if not self._may_be_call():
            return self._give_back(1)
        header = _HEADER.match(self._buffer) if self._eager else None
        name = None if header is None else name_of(header["name"])
        if header is not None and name is not None and self._is_known(name):
            self._take(header.end())
            return self._flow(name, in_object=True)
        n_chars = self._scanner.scan(self._buffer)
        if n_chars is None:
            return self._give_back(self._scanner.n_scanned) if self._scanner.is_broken else None
        call = read_call(self._buffer[:n_chars], needs_arguments=not self._is_marked)
        if call is None or not self._is_known(call.name):
            return self._give_back(n_chars)
        return self._whole(call, n_chars)

    def _named_object(self) -> list[Event] | None:
        """The arguments of a call whose name stood before them."""
        n_chars = self._scanner.scan(self._buffer)
        if n_chars is None:
            return self._give_back(self._scanner.n_scanned) if self._scanner.is_broken else None
        arguments = self._buffer[:n_chars]
        if not is_object(arguments):
            return self._give_back(n_chars)
        return self._whole(Call(self._name, arguments), n_chars)

    def _may_be_call(self) -> bool:
        """Without a mark, an object whose first key is another one is not held up."""
        if self._is_marked:
            return True
        rest = self._buffer[1:].lstrip()
        return any(key.startswith(rest[: len(key)]) for key in _FIRST_KEYS)

    def _is_known(self, name: str) -> bool:
        return self._is_marked or name in self._names

    def _whole(self, call: Call, n_chars: int) -> list[Event]:
        self._take(n_chars)
        start = self._start(call.name)
        self._state = self._after_call()
        return [start, CallArguments(start.index, call.arguments), CallEnd(start.index)]

    def _start(self, name: str) -> CallStart:
        self.n_calls += 1
        self._raw, self._blank = "", ""
        return CallStart(self.n_calls - 1, self._new_id(self._form), name)

    # --- a call that goes out as it comes ------------------------------------------------------

    def _flow(self, name: str, *, in_object: bool) -> list[Event]:
        self._n_sent = 0
        self._in_object = in_object
        return [self._start(name), *self._scan(self._arguments)]

    def _arguments(self) -> list[Event] | None:
        n_chars = self._scanner.scan(self._buffer)
        piece = self._buffer[self._n_sent : self._scanner.n_scanned]
        self._n_sent = self._scanner.n_scanned
        events: list[Event] = [CallArguments(self.n_calls - 1, piece)] if piece else []
        if n_chars is None and not self._scanner.is_broken:
            return events or None
        self._take(self._n_sent)
        if self._in_object:
            self._scan(self._rest_of_object)
        else:
            self._state = self._after_call()
        return [*events, CallEnd(self.n_calls - 1)]

    def _rest_of_object(self) -> list[Event] | None:
        """What stands between the arguments and the brace that ends the call."""
        n_chars = self._scanner.scan("{" + self._buffer)
        if n_chars is None and not self._scanner.is_broken:
            return None
        self._take(self._scanner.n_scanned - 1)
        self._state = self._after_call()
        return []

    # --- after a call --------------------------------------------------------------------------

    def _after_call(self) -> _State:
        if self._in_list:
            return self._list
        if self._form == "hermes":
            return self._close
        return self._between if self._form == "llama3" else self._text

    def _close(self) -> list[Event] | None:
        """The closing mark, if it comes."""
        rest = self._buffer.lstrip(string.whitespace)
        if len(rest) < len(_CLOSING) and _CLOSING.startswith(rest):
            return None
        if rest.startswith("{"):  # another call under the same mark
            self._raw = self._skip()
            return self._scan(self._object)
        if rest.startswith(_CLOSING):
            self._skip()
            self._take(len(_CLOSING))
        self._state = self._text
        return []

    def _between(self) -> list[Event] | None:
        """Another call may follow in the same line, after a semicolon."""
        rest = self._buffer.lstrip(string.whitespace + ";,")
        if not rest:
            return None
        self._state = self._text
        if rest.startswith("{"):
            self._raw, self._is_marked = self._skip(";,"), False
            self._state = self._open
        return []


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of a text that is a proper beginning of a mark."""
    for n in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:n]):
            return n
    return 0
