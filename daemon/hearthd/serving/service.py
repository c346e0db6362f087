"""Serving: the one thing that the API talks to; admits, routes, and hands out Generations."""

from __future__ import annotations

from hearthd import wire
from hearthd.serving.generation import Generation, GenerationRequest
from hearthd.serving.status import ModelStatus, Readiness

__all__ = ["Generation", "GenerationRequest", "ModelStatus", "Readiness", "Serving"]


class Serving:
    """Answers at once from what it knows; only iterating a Generation waits for an engine."""

    def generate(self, request: GenerationRequest) -> Generation:
        """Admit a request, which waits in the bounded queue while its model loads.

        Raises ModelNotFound, ModelFailed, Overloaded, ShuttingDown.
        """
        raise NotImplementedError

    async def encode(self, model: str, frame: wire.Encode) -> wire.Encoded:
        """Tokens of a text or a chat; numbers the frame. Raises what `generate` raises, InvalidRequest,
        DeadlineExceeded."""
        raise NotImplementedError

    async def decode(self, model: str, frame: wire.Decode) -> wire.Decoded:
        """The text of tokens; numbers the frame. Raises what `encode` raises."""
        raise NotImplementedError

    def models(self) -> list[ModelStatus]:
        """Every model, in the order of the configuration; never waits."""
        raise NotImplementedError

    def model(self, name: str) -> ModelStatus:
        """One model, by name or alias; raises ModelNotFound."""
        raise NotImplementedError

    def readiness(self) -> Readiness:
        """Whether requests are answered now."""
        raise NotImplementedError
