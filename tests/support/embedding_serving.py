"""EmbeddingServing: a FakeServing with a second model that embeds texts by their words."""

from __future__ import annotations

import hashlib
import re
import time
from array import array

import msgspec
from fake_serving import INFO, FakeServing, Script, model_status

from hearthd import wire
from hearthd.config.schema import ModelConfig
from hearthd.errors import HearthError
from hearthd.serving.encoding import Encoding, EncodingRequest
from hearthd.serving.identity import ModelIdentity, identity_of
from hearthd.serving.principal import LOCAL, Principal
from hearthd.telemetry.timeline import RequestTimeline

DIMENSIONS = 64
_SMALL = frozenset("the a is of what tell me please to".split())  # noqa: SIM905


def vector_of(text: str) -> list[float]:
    """The sum of a direction for each word that means something: paraphrases are near each other."""
    total = [0.0] * DIMENSIONS
    for word in set(re.findall(r"\w+", text.lower())) - _SMALL:
        noise = hashlib.shake_128(word.encode()).digest(DIMENSIONS)
        total = [t + byte - 127.5 for t, byte in zip(total, noise, strict=True)]
    return total


class EmbeddingServing(FakeServing):
    """`n_embedded` counts texts; `embedding_refusal` is raised instead of vectors."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(script, model_status(), model_status("embedder"))
        self.n_embedded = 0
        self.embedding_refusal: HearthError | None = None

    def embed(self, request: EncodingRequest) -> Encoding:
        if self.embedding_refusal is not None:
            raise self.embedding_refusal
        texts = request.frame.texts or []
        self.n_embedded += len(texts)
        now = time.monotonic()
        timeline = RequestTimeline(model=request.model, klass=request.klass, arrived_seconds=now)
        encoding = Encoding(request.frame, timeline, lambda left: None)
        values = b"".join(array("f", vector_of(text)).tobytes() for text in texts)
        encoding.answer(wire.Embedded(0, len(texts), DIMENSIONS, values, 1), now)
        return encoding

    def identity(self, name: str, principal: Principal = LOCAL) -> ModelIdentity | None:
        if name != "embedder":
            return super().identity(name, principal)
        return identity_of(name, msgspec.structs.replace(INFO, digest="e" * 64), ModelConfig())
