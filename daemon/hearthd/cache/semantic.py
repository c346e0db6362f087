"""SemanticCache: answers to the same question in other words; by default it only measures what it would do."""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Final

from hearthd import wire
from hearthd.cache.asked import Asked
from hearthd.cache.counts import Counts
from hearthd.cache.exact import ExactCache
from hearthd.cache.fingerprint import Fingerprint, Question, question_in
from hearthd.cache.guards import differs
from hearthd.cache.neighbours import Neighbour, Neighbours
from hearthd.cache.policy import Policy
from hearthd.cache.recording import BadRecording, Recording, Step, unpack
from hearthd.cache.vectors import cosine, signs, unit
from hearthd.errors import HearthError
from hearthd.serving.encoding import EncodingRequest
from hearthd.serving.identity import ModelIdentity
from hearthd.serving.principal import LOCAL
from hearthd.serving.service import Serving

log = logging.getLogger(__name__)

LOOKUP_SECONDS: Final = 1.0
"""A lookup that takes longer is given up."""
ALIKE: Final = 0.9
"""Two answers whose vectors are so near say about the same."""
_MOST_CHARS: Final = 2000


class SemanticCache:
    """Partition, model and all but the question are a hash that must be equal before anything is compared."""

    def __init__(self, serving: Serving, exact: ExactCache, policy: Policy, counts: Counts) -> None:
        self._serving = serving
        self._exact = exact
        self.policy = policy
        self._counts = counts
        self._neighbours = Neighbours()

    # --- what the cache asks -------------------------------------------------------------------

    def question(self, asked: Asked, identity: ModelIdentity) -> Question | None:
        """The question of a request that other words may stand for; None: there is nothing to compare."""
        if self.policy.semantic(identity.name, asked.principal) == "off":
            return None
        try:
            embedder = self._serving.identity(self.policy.cache.embedder, LOCAL)
        except HearthError:
            embedder = None
        if embedder is None:
            return None
        return question_in(
            asked.requests,
            identity,
            self.policy.partition(asked.principal),
            seeded=asked.seeded,
            embedder_digest=embedder.digest,
        )

    async def find(self, question: Question) -> tuple[Neighbour, Recording] | None:
        """The answer to the same question in other words, if it is near enough and no guard objects."""
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                (vector,) = await self._vectors([question.text])
                neighbour = await self._nearest(question.context, vector, b"")
                if neighbour is None or not self._would_hit(question, neighbour):
                    return None
                return neighbour, unpack(neighbour.entry.body, neighbour.entry.key)
        except (TimeoutError, HearthError, BadRecording, ValueError) as error:
            self._fault(error)
        return None

    async def learn(
        self, question: Question, wanted: Fingerprint, steps: Sequence[Step], *, judge: bool
    ) -> None:
        """Remember a question whose answer has been kept; first judge what would have been answered."""
        try:
            (vector,) = await self._vectors([question.text])
            if judge:
                await self._judge(question, wanted, vector, _text(steps))
        except (HearthError, BadRecording, ValueError) as error:
            self._fault(error)
            return
        values = (question.context, question.text[:_MOST_CHARS], signs(vector), vector.tobytes())
        await self._exact.write(
            lambda c: c.execute(
                "INSERT OR REPLACE INTO questions (context, question, signs, vector, answer)"
                " SELECT ?, ?, ?, ?, id FROM answers WHERE key = ?",
                (*values, wanted.key),
            )
        )
        await self._exact.read(
            lambda c: self._neighbours.learn(c, question.context, wanted.key), None
        )

    async def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """How alike the questions of each pair are; raises what the embedding model says no with."""
        vectors = await self._vectors([text for pair in pairs for text in pair])
        return [cosine(one, other) for one, other in zip(vectors[::2], vectors[1::2], strict=True)]

    # --- parts ---------------------------------------------------------------------------------

    async def _judge(
        self, question: Question, wanted: Fingerprint, vector: array[float], text: str
    ) -> None:
        neighbour = await self._nearest(question.context, vector, wanted.key)
        counted: Counter[tuple[str, str]] = self._counts.semantic
        model = wanted.scope.model
        if neighbour is None or neighbour.similarity < self.policy.cache.threshold:
            counted[model, "none"] += 1
        elif (guard := differs(question.text, neighbour.question)) is not None:
            counted[model, f"refused-{guard}"] += 1
        else:
            other = _text(unpack(neighbour.entry.body, neighbour.entry.key).steps)
            counted[model, await self._verdict(text, other)] += 1

    async def _verdict(self, text: str, other: str) -> str:
        if text.split() == other.split():
            return "same"
        if not text.strip() or not other.strip() or differs(text, other) is not None:
            return "different"
        one, two = await self._vectors([text, other])
        return "alike" if cosine(one, two) >= ALIKE else "different"

    def _would_hit(self, question: Question, neighbour: Neighbour) -> bool:
        near = neighbour.similarity >= self.policy.cache.threshold
        return near and differs(question.text, neighbour.question) is None

    async def _vectors(self, texts: list[str]) -> list[array[float]]:
        """Directions of texts; raises HearthError, ValueError."""
        request = EncodingRequest(
            self.policy.cache.embedder,
            wire.Embed(rid=0, texts=texts, truncate=-1),
            "cache",
            "interactive",
        )
        async with self._serving.embed(request) as encoding:
            embedded = await encoding.result()
        size = embedded.dim * 4
        return [unit(embedded.values[i * size : (i + 1) * size]) for i in range(embedded.n)]

    async def _nearest(
        self, context: bytes, vector: array[float], not_key: bytes
    ) -> Neighbour | None:
        return await self._exact.read(
            lambda c: self._neighbours.nearest(c, context, vector, not_key), None
        )

    def _fault(self, error: Exception) -> None:
        self._counts.fault("semantic")
        log.debug("questions cannot be compared: %s", error)


def _text(steps: Sequence[Step]) -> str:
    return "".join([delta.text for step in steps for _, delta in step])
