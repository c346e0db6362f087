"""What a model's text turns out to be: content, and calls of tools."""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from hearthd import wire


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

_ALNUM = string.ascii_letters + string.digits


def new_call_id(form: wire.ToolFormat) -> str:
    """An id as the model's template will take it back: Mistral's want nine letters or digits."""
    if form in ("mistral", "mistral-args"):
        return "".join(secrets.choice(_ALNUM) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"


class CallIds:
    """Ids of one choice's calls: as hard to guess as its answer's id, and always the same for it."""

    __slots__ = ("_n", "_seed")

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._n = 0

    def next(self, form: wire.ToolFormat) -> str:
        """The id of the next call, in the shape of `new_call_id`."""
        self._n += 1
        hashed = hashlib.blake2b(f"{self._seed}/{self._n}".encode(), digest_size=12)
        if form not in ("mistral", "mistral-args"):
            return f"call_{hashed.hexdigest()}"
        number, letters = int.from_bytes(hashed.digest()), []
        for _ in range(9):
            number, letter = divmod(number, len(_ALNUM))
            letters.append(_ALNUM[letter])
        return "".join(letters)


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call, its arguments as the JSON text of an object."""

    name: str
    arguments: str


class _Written(msgspec.Struct, frozen=True):
    name: str
    arguments: Any = None
    parameters: Any = None


class _Raw(msgspec.Struct, frozen=True):
    arguments: msgspec.Raw = msgspec.Raw(b"null")
    parameters: msgspec.Raw = msgspec.Raw(b"null")


def read_call(text: str, *, needs_arguments: bool = False) -> Call | None:
    """The call that a JSON object describes; None where it describes none.

    Arguments may be missing, unless `needs_arguments`, or stand as a string of JSON: models write that.
    """
    try:
        written = msgspec.json.decode(text, type=_Written)
        raw = msgspec.json.decode(text, type=_Raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    key = "parameters" if written.arguments is None else "arguments"
    value = getattr(written, key)
    if not written.name:
        return None
    if value is None:
        return None if needs_arguments else Call(written.name, "{}")
    if isinstance(value, str) and is_object(value):
        return Call(written.name, value)
    return (
        Call(written.name, bytes(getattr(raw, key)).decode()) if isinstance(value, dict) else None
    )


def is_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def name_of(text: str) -> str | None:
    """The name that a JSON string holds."""
    try:
        return msgspec.json.decode(text, type=str) or None
    except msgspec.DecodeError:
        return None


def joined(events: Iterable[Event]) -> list[Event]:
    """The same events, pieces of one text or of one call's arguments put together."""
    together: list[Event] = []
    for event in events:
        last = together[-1] if together else None
        if isinstance(event, Content) and isinstance(last, Content):
            together[-1] = Content(last.text + event.text)
        elif (
            isinstance(event, CallArguments)
            and isinstance(last, CallArguments)
            and last.index == event.index
        ):
            together[-1] = CallArguments(event.index, last.text + event.text)
        else:
            together.append(event)
    return together
