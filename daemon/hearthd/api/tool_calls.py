"""ToolCallParser: finds calls of tools in what a model writes, as it is written.

The forms are those of `hearthd.engine.tool_format`. What looks like a call and is none is given back as
content; a mark, or a part of one, never shows. A call is held until it is whole and right, unless
`eager`: then a grammar sees to it that it will be, and its arguments go out as they come.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, TypeAlias

from hearthd import wire
from hearthd.api.json_scan import ObjectScanner


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call begins; calls are numbered from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the arguments' JSON."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call is whole."""

    index: int


Event: TypeAlias = Content | CallStart | CallArguments | CallEnd

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
_NAMED = re.compile(r"\s*(?P<name>[\w.\-]+)\s*(?:\[CALL_ID\]\s*[\w\-]*\s*)?(?:\[ARGS\]\s*)?")
_NOT_NAMED = re.compile(r"[^\w.\-\s\[\]]")  # ends what may stand between a mark and a brace
_LONGEST_NAMED = 256
_ALNUM = string.ascii_letters + string.digits


def new_call_id(form: wire.ToolFormat) -> str:
    """An id as the model's template will take it back: Mistral's want nine letters or digits."""
    if form in ("mistral", "mistral-args"):
        return "".join(secrets.choice(_ALNUM) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"


class ToolCallParser:
    """Text of one choice in, events out; any cut of the same text gives the same in the end."""

    def __init__(
        self,
        form: wire.ToolFormat,
        names: Collection[str],
        *,
        eager: bool = False,
        new_id: Callable[[wire.ToolFormat], str] = new_call_id,
    ) -> None:
        """`names`: of the tools; where no mark tells a call from other JSON, its name has to be one."""
        self.n_calls = 0
        self._form = form
        self._mark = _OPENING[form]
        self._names = frozenset(names)
        self._eager = eager
        self._new_id = new_id
        self._buffer = ""  # not yet decided
        self._raw = ""  # of what may be a call, taken off the buffer; given back if it is none
        self._state: Callable[[], list[Event] | None] = self._text
        self._scanner = ObjectScanner()
        self._is_marked = False  # what may be a call stands after a mark
        self._in_list = False
        self._blank = ""  # whitespace that no text has followed since the start or the last call
        self._spoke = False  # text has gone out since then
        self._line_is_blank = True

    def feed(self, text: str) -> list[Event]:
        """What more text brings."""
        self._buffer += text
        events: list[Event] = []
        while (made := self._state()) is not None:
            events += made
        return events

    def finish(self) -> list[Event]:
        """What was held back, when no more text comes."""
        if self._state == self._text:
            events = self._release(self._buffer)
        elif self._state in (self._open, self._named, self._object, self._named_object):
            events = self._release(self._raw + self._buffer)
        else:
            events = []  # whitespace, separators, or a part of a mark, after a call
        if self._blank and not self.n_calls:
            events.append(Content(self._blank))
        self._buffer = self._raw = self._blank = ""
        return events

    # --- text ----------------------------------------------------------------------------------

    def _text(self) -> list[Event] | None:
        """Everything up to where a call may begin; None when all that may go has gone."""
        at, opening = self._next_opening()
        if at is None:
            held = _overlap(self._buffer, self._mark)
            text, self._buffer = self._buffer[: len(self._buffer) - held], self._buffer[-held:]
            if not held:
                self._buffer = ""
            return self._release(text) if text else None
        events = self._release(self._buffer[:at])
        self._buffer = self._buffer[at + len(opening) :]
        self._raw, self._is_marked = opening, bool(opening)
        self._state = self._open
        return events

    def _next_opening(self) -> tuple[int | None, str]:
        """Where a mark stands, or, in a form that has none, a brace that begins a line."""
        at = self._buffer.find(self._mark)
        if self._form == "llama3":
            brace = self._line_brace()
            if brace is not None and (at < 0 or brace < at):
                return brace, ""
        return (None, "") if at < 0 else (at, self._mark)

    def _line_brace(self) -> int | None:
        """The first brace with nothing but whitespace before it in its line."""
        pattern = _LINE_BRACE if self._line_is_blank else _LATER_LINE_BRACE
        found = pattern.search(self._buffer)
        return found.end() - 1 if found else None

    def _release(self, text: str) -> list[Event]:
        """Text as content; whitespace only once something follows it."""
        last_line = text.rpartition("\n")
        if last_line[1]:
            self._line_is_blank = not last_line[2].strip()
        else:
            self._line_is_blank = self._line_is_blank and not text.strip()
        if not self._spoke:
            text = self._blank + text
            if not text.strip():
                self._blank = text
                return []
            self._blank, self._spoke = "", True
        return [Content(text)] if text else []

    def _give_back(self, text: str = "") -> list[Event]:
        """It was no call: what was taken for one is content, and the rest is looked at anew."""
        raw, self._raw, self._state = self._raw, "", self._text
        return self._release(raw + text)

    def _take(self, n_chars: int) -> str:
        taken, self._buffer = self._buffer[:n_chars], self._buffer[n_chars:]
        return taken

    def _skip(self, signs: str = "") -> str:
        """Take whitespace, and some other signs, off the buffer."""
        rest = self._buffer.lstrip(string.whitespace + signs)
        return self._take(len(self._buffer) - len(rest))

    # --- a call --------------------------------------------------------------------------------

    def _open(self) -> list[Event] | None:
        """After a mark, or before a brace: which way the call is written."""
        self._raw += self._skip()
        if not self._buffer:
            return None
        sign = self._buffer[0]
        if sign == "{":
            return self._begin(self._object)
        if not self._form.startswith("mistral"):
            return self._give_back()
        if sign == "[":
            self._raw += self._take(1)
            self._in_list, self._state = True, self._list
        else:
            self._state = self._named
        return []

    def _begin(self, state: Callable[[], list[Event] | None]) -> list[Event]:
        self._scanner = ObjectScanner()
        self._state = state
        return []

    def _list(self) -> list[Event] | None:
        """Between the calls of a list, or at its end."""
        self._raw += self._skip(",")
        if not self._buffer:
            return None
        if self._buffer[0] == "{":
            return self._begin(self._object)
        self._in_list = False
        if self._buffer[0] == "]" and self.n_calls:
            self._take(1)
            self._raw, self._state = "", self._text
            return []
        return self._give_back()

    def _named(self) -> list[Event] | None:
        """A name that stands before its arguments."""
        found = _NOT_NAMED.search(self._buffer)
        n_named = found.start() if found else len(self._buffer)
        if n_named > _LONGEST_NAMED:
            return self._give_back(self._take(_LONGEST_NAMED))
        if found is None:
            return None
        named = _NAMED.fullmatch(self._buffer, 0, n_named)
        if found[0] != "{" or named is None:
            return self._give_back(self._take(n_named))
        self._raw += self._take(n_named)
        if self._eager:
            self._raw = ""
            return [self._start(named["name"]), *self._begin(self._arguments)]
        self._name = named["name"]
        return self._begin(self._named_object)

    def _named_object(self) -> list[Event] | None:
        """The whole arguments of a call whose name stood before them."""
        n_chars = self._scanner.scan(self._buffer)
        if self._scanner.is_broken:
            return self._give_back(self._take(self._scanner.n_scanned))
        if n_chars is None:
            return None
        text = self._take(n_chars)
        return self._whole(self._name, text) if _is_object(text) else self._give_back(text)

    def _object(self) -> list[Event] | None:
        """An object that holds a name and arguments."""
        if not self._may_be_call():
            return self._give_back(self._take(1))
        if self._eager:
            header = _HEADER.match(self._buffer)
            name = None if header is None else _name_of(header["name"])
            if header is not None and name is not None and self._is_known(name):
                self._take(header.end())
                self._raw = ""
                return [self._start(name), *self._begin(self._arguments)]
        n_chars = self._scanner.scan(self._buffer)
        if self._scanner.is_broken:
            return self._give_back(self._take(self._scanner.n_scanned))
        if n_chars is None:
            return None
        text = self._take(n_chars)
        call = read_call(text)
        if call is None or not self._is_known(call[0]):
            return self._give_back(text)
        return self._whole(*call)

    def _may_be_call(self) -> bool:
        """Without a mark, an object whose first key is another one is no call, and is not held up."""
        if self._is_marked or self._in_list:
            return True
        rest = self._buffer[1:].lstrip()
        return any(key.startswith(rest[: len(key)]) for key in _FIRST_KEYS)

    def _is_known(self, name: str) -> bool:
        return self._is_marked or name in self._names

    def _arguments(self) -> list[Event] | None:
        """Arguments that go out as they come."""
        n_chars = self._scanner.scan(self._buffer)
        ends = n_chars is not None or self._scanner.is_broken
        text = self._buffer[: self._scanner.n_scanned]
        index = self.n_calls - 1
        if not ends:
            text = self._buffer
            return self._flow(index) if text else None
        self._take(self._scanner.n_scanned)
        return []

    def _flow(self, index: int) -> list[Event] | None:
        return []
