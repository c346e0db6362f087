"""One streamed answer, from the request to its last word."""

from __future__ import annotations

import time
from collections.abc import Callable

from hearth_tui.answer import Answer, AnswerMeter
from hearth_tui.client import Client
from hearth_tui.types import ChatRequest


def stream_answer(box: Client, request: ChatRequest, write: Callable[[str], None]) -> Answer:
    """Ask and write the text as it comes; any exception, Ctrl-C's too, cancels the request.

    Raises what `Client.stream` raises, and AnswerBrokenOff.
    """
    meter = AnswerMeter(time.monotonic())
    try:
        with box.stream(request) as chunks:
            for chunk in chunks:
                if text := meter.add(chunk, time.monotonic()):
                    write(text)
    except KeyboardInterrupt:
        # It may have come before the response had a name here by which it could be closed.
        box.hang_up()
        raise
    return meter.finish()
