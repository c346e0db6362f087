"""Call: one question to an engine that has one answer (tokens of a text, text of tokens)."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from hearthd import wire
from hearthd.errors import HearthError

Answer: TypeAlias = wire.Encoded | wire.Decoded


class Call:
    """Asked again of a replacement when the engine is lost: it has no effects."""

    __slots__ = ("answer", "frame")

    def __init__(self, frame: wire.Encode | wire.Decode) -> None:
        """`frame` has its number."""
        self.frame = frame
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    @property
    def rid(self) -> int:
        return self.frame.rid

    def resolve(self, frame: Answer) -> None:
        """Hand the answer over, where somebody still waits."""
        if not self.answer.done():
            self.answer.set_result(frame)

    def fail(self, error: HearthError) -> None:
        """End it with an error, where somebody still waits."""
        if not self.answer.done():
            self.answer.set_exception(error)
