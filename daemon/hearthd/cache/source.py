"""Source: where the deltas of an answer come from; a live one, one that others share, or one that was kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

from hearthd import wire
from hearthd.cache.recording import Step


class Live(Protocol):
    """An answer that is computed: admitted on entry, cancelled when left before its end.

    Entering it does not wait for anything.
    """

    @property
    def info(self) -> wire.ModelInfo | None:
        """The model that answers, once it is known."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def steps(self) -> AsyncIterator[Step]:
        """What arrives together, until the end; raises what went wrong."""


class Source(Protocol):
    """An answer as its reader sees it, whoever computes it."""

    @property
    def info(self) -> wire.ModelInfo | None:
        """The model that answers or answered, once it is known."""

    def steps(self) -> AsyncIterator[Step]:
        """What arrives together, until the end; raises what went wrong."""


class Replay:
    """Steps that were recorded."""

    def __init__(self, info: wire.ModelInfo, steps: list[Step]) -> None:
        self.info: wire.ModelInfo | None = info
        self._steps = steps

    async def steps(self) -> AsyncIterator[Step]:
        """All at once: nothing is waited for."""
        for step in self._steps:
            yield step
