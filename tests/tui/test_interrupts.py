"""Ctrl-C at any moment of an answer: the box is told, and the connection serves the next question."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from fake_box import FakeBox

from hearth_tui.address import Address
from hearth_tui.client import Client
from hearth_tui.stream import stream_answer
from hearth_tui.types import ChatRequest, Message

EVERY_LINES = 37  # of the lines that Python runs for an answer, one that is interrupted
REQUEST = ChatRequest("canary", [Message("user", "hello")])


class Heard(Exception):
    """The answer has been heard long enough."""


@contextmanager
def interrupted_after(n_lines: int) -> Iterator[None]:
    """Ctrl-C while the next but so many line runs, of this module's caller or of any library."""
    n_left = n_lines

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal n_left
        if event == "line":
            n_left -= 1
            if n_left == 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    gc.disable()  # a finaliser, of the box's objects even, would swallow it
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
        gc.enable()


def test_ctrl_c_at_any_line_ends_the_request(box: FakeBox) -> None:
    box.endless = True
    with Client(Address(box.url)) as client:
        n_lines = 1
        while _interrupts(client, n_lines):
            assert [model.id for model in client.models()] == ["canary"]
            n_lines += EVERY_LINES
        assert n_lines > 50 * EVERY_LINES  # or what is tried here is not what it was
        assert len(box.requests) > 20
        deadline = time.monotonic() + 10
        while box.n_answering and time.monotonic() < deadline:
            time.sleep(0.01)
        assert box.n_answering == 0


def _interrupts(client: Client, n_lines: int) -> bool:
    """Whether an answer of a few pieces was interrupted at a line."""
    n_pieces = 0

    def write(text: str) -> None:
        nonlocal n_pieces
        n_pieces += 1
        if n_pieces == 4:
            raise Heard

    try:
        with interrupted_after(n_lines):
            stream_answer(client, REQUEST, write)
    except KeyboardInterrupt:
        return True
    except Heard:
        return False
    pytest.fail("the answer ended though it has no end")
