"""ServingRig: a Serving that runs, and the questions that tests ask of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from hearthd import wire
from hearthd.placement.ledger import Ledger
from hearthd.serving.generation import Generation, GenerationRequest
from hearthd.serving.service import Serving
from hearthd.serving.status import ModelStatus
from hearthd.telemetry.metrics import Metrics

WAIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ServingRig:
    """What `start` returns."""

    serving: Serving
    ledger: Ledger
    metrics: Metrics

    def ask(self, text: str = "hello", model: str = "m", **fields: Any) -> Generation:
        """A request of greedy text."""
        submit = wire.Submit(
            rid=0,
            text=text,
            arrived_seconds=time.monotonic(),
            **{
                "max_tokens": 8,
                "ignore_eos": True,
                "sampling": wire.Sampling(temperature=0.0),
                **fields,
            },
        )
        return self.serving.generate(GenerationRequest(model, submit, "test"))

    async def until(self, holds: Callable[[ModelStatus], bool], model: str = "m") -> ModelStatus:
        """Wait for the status that is wanted."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds(status := self.serving.model(model)):  # noqa: ASYNC110  # any status: no event tells of all
                await asyncio.sleep(0.01)
        return status

    async def until_state(self, state: str, model: str = "m") -> ModelStatus:
        return await self.until(lambda status: status.state == state, model)


Start: TypeAlias = Callable[..., ServingRig]
"""The `start` fixture of tests/serving."""


async def read(generation: Generation) -> str:
    """All of its text; raises what it ended with."""
    async with asyncio.timeout(WAIT_SECONDS), generation:
        return "".join([delta.text async for delta in generation])
