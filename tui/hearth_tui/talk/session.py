"""Session: one conversation with one box, and the answer that is under way; its methods are for threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from hearth_tui.answer import Answer
from hearth_tui.client import Client
from hearth_tui.errors import ClientError
from hearth_tui.stream import stream_answer
from hearth_tui.types import ChatRequest, Message, Model


class Stopped(Exception):
    """The user has stopped the answer; what came of it has been handed over."""


class Talker(Protocol):
    """Whom the screen talks with."""

    @property
    def name(self) -> str: ...
    def models(self) -> list[Model]: ...
    def ask(self, model: str, messages: list[Message], heard: Callable[[str], None]) -> Answer: ...
    def stop(self) -> None: ...


class Session:
    """Asks a box; one question at a time."""

    def __init__(self, box: Client) -> None:
        self._box = box
        self._stopped = threading.Event()

    @property
    def name(self) -> str:
        """Where the box is."""
        return str(self._box.address)

    def models(self) -> list[Model]:
        """Those of the box; raises ClientError."""
        return self._box.models()

    def ask(self, model: str, messages: list[Message], heard: Callable[[str], None]) -> Answer:
        """The whole answer, of which `heard` gets each piece as it comes; raises ClientError, Stopped."""
        self._stopped.clear()

        def write(text: str) -> None:
            if self._stopped.is_set():
                raise Stopped
            heard(text)

        try:
            return stream_answer(self._box, ChatRequest(model, messages), write)
        except ClientError:
            if self._stopped.is_set():
                raise Stopped from None
            raise

    def stop(self) -> None:
        """Make `ask` end soon; again where it was not connected yet."""
        self._stopped.set()
        self._box.cut()
