"""ResponseCache: what the API asks for answers; finds them, joins those under way, keeps new ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from hearthd.cache.answers import Selection
from hearthd.cache.asked import Asked, Found
from hearthd.cache.counts import Counts
from hearthd.cache.exact import ExactCache
from hearthd.cache.fingerprint import Fingerprint, fingerprint, is_deterministic
from hearthd.cache.flight import Flight
from hearthd.cache.policy import Policy
from hearthd.cache.question import question_of
from hearthd.cache.recording import Recording, Step, as_recorded, is_whole, replayed
from hearthd.cache.renderings import Rendering, Renderings
from hearthd.cache.semantic import SemanticCache
from hearthd.cache.source import Live, Replay
from hearthd.config.schema import CacheConfig, ModelCacheConfig
from hearthd.errors import NotCached
from hearthd.serving.identity import ModelIdentity
from hearthd.serving.service import Serving


class ResponseCache:
    """No fault of it fails a request: then it is as if there were no cache. Belongs to the event loop."""

    def __init__(
        self, serving: Serving, policy: Policy, exact: ExactCache | None, counts: Counts
    ) -> None:
        """Without `exact`, every request is computed."""
        self.policy = policy
        self.counts = counts
        self.exact = exact
        self._serving = serving
        self.semantic = (
            SemanticCache(serving, exact, policy, counts)
            if exact is not None and policy.cache.embedder
            else None
        )
        self._renderings = Renderings(policy.cache.memory)
        self._flights: dict[bytes, Flight] = {}
        self._digests: dict[str, str] = {}  # of models, as last seen
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    def off(cls, serving: Serving) -> ResponseCache:
        """One that finds nothing and keeps nothing."""
        return cls(serving, Policy(CacheConfig(enabled=False), {}, {}), None, Counts())

    def configure(self, models: Mapping[str, ModelCacheConfig]) -> None:
        """What counts for each model from now on."""
        self.policy = replace(self.policy, models=models)
        if self.semantic is not None:
            self.semantic.policy = self.policy
        if self.exact is not None:
            self.exact.ttl_seconds = {name: model.ttl_seconds for name, model in models.items()}

    async def open(self) -> None:
        """Ready what is kept on disk."""
        if self.exact is not None:
            await self.exact.open()

    async def drop(self, which: Selection) -> int:
        """Delete answers, from the disk and from memory; how many there were on disk."""
        self._renderings.drop_scopes(which.selects)
        return 0 if self.exact is None else await self.exact.drop(which)

    async def settled(self) -> None:
        """Wait until what has been answered is kept."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """End what is under way, and write what is to be written."""
        for flight in list(self._flights.values()):
            await flight.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.exact is not None:
            await self.exact.close()

    @asynccontextmanager
    async def answer(self, asked: Asked, live: Callable[[], Live]) -> AsyncIterator[Found]:
        """The answer to a request; `live` computes it. Leaving early is what a client that goes does.

        Raises what entering `live` raises, NotCached, and of the model ModelNotFound, Forbidden and
        ShuttingDown.
        """
        async with AsyncExitStack() as stack:
            yield await self._find(asked, live, stack)

    async def _find(self, asked: Asked, live: Callable[[], Live], stack: AsyncExitStack) -> Found:
        identity = None if self.exact is None else self._identity(asked)
        why_not = self._why_not(asked, identity)
        if why_not is not None or identity is None or self.exact is None:
            if asked.control.only_if_cached:
                raise _not_cached()
            source = await stack.enter_async_context(live())  # refuses what is no model's name
            self.counts.bypass(asked.model if identity is None else identity.name, why_not or "off")
            return Found("BYPASS", asked.id, asked.created, source=source)
        wanted = fingerprint(
            asked.requests, identity, self.policy.partition(asked.principal), seeded=asked.seeded
        )
        found = await self._kept(self.exact, asked, identity, wanted)
        if found is None and wanted.key not in self._flights:
            found = await self._in_other_words(self.exact, asked, identity)
        if found is None:
            found = self._join(asked, wanted, stack)
        if found is None:
            if asked.control.only_if_cached:
                raise _not_cached()
            found = await self._lead(asked, live, identity, wanted, stack)
        self.counts.result(identity.name, found.result)
        return found

    # --- whether -------------------------------------------------------------------------------

    def _identity(self, asked: Asked) -> ModelIdentity | None:
        """Of the model that would answer; forgets what another one under the same name had said."""
        identity = self._serving.identity(asked.model, asked.principal)
        if identity is not None and self._digests.get(identity.name) != identity.digest:
            self._digests[identity.name] = identity.digest
            gone = Selection(model=identity.name, not_digest=identity.digest)
            self._spawn(self._forget(gone))
        return identity

    async def _forget(self, which: Selection) -> None:
        await self.drop(which)

    def _why_not(self, asked: Asked, identity: ModelIdentity | None) -> str | None:
        """Why the cache has no part in a request; None where it has."""
        if self.exact is None:
            return "off"
        if asked.control.no_store:
            return "no-store"
        if identity is None:
            return "model-not-ready"
        config = self.policy.model(identity.name)
        if not config.enabled:
            return "off"
        if not config.sampled and not is_deterministic(asked.requests, seeded=asked.seeded):
            return "not-deterministic"
        return None

    def _is_fresh(self, asked: Asked, model: str, created: float) -> bool:
        age = time.time() - created
        most = asked.control.max_age_seconds
        within = most is None or age <= most
        return within and age <= self.policy.model(model).ttl_seconds

    # --- kept answers --------------------------------------------------------------------------

    async def _kept(
        self, exact: ExactCache, asked: Asked, identity: ModelIdentity, wanted: Fingerprint
    ) -> Found | None:
        if asked.control.no_cache or asked.control.max_age_seconds == 0:
            return None
        key, model = wanted.key, identity.name
        rendering = self._renderings.get(key, asked.wording)
        if rendering is not None and self._is_fresh(asked, model, rendering.created):
            exact.asked(key)
            self._count_hit(exact, wanted, rendering.cost_seconds, rendering.n_tokens)
            return Found(
                "HIT",
                "",
                rendering.created,
                identity.info,
                body=rendering.body,
                age_seconds=_age(rendering.created),
            )
        if key in self._flights:
            return None
        kept = await exact.find(wanted)
        if kept is None or not self._is_fresh(asked, model, kept[0].created):
            return None
        entry, recording = kept
        n_tokens = entry.n_prompt + entry.n_output
        self._count_hit(exact, wanted, entry.cost_seconds, n_tokens)

        def keep(body: bytes) -> None:
            self._renderings.put(
                key,
                asked.wording,
                Rendering(body, wanted.scope, recording.created, entry.cost_seconds, n_tokens),
            )

        steps: list[Step] = list(replayed(recording.steps))
        return Found(
            "HIT",
            recording.id,
            recording.created,
            identity.info,
            Replay(identity.info, steps),
            age_seconds=_age(recording.created),
            keep=keep,
        )

    async def _in_other_words(
        self, exact: ExactCache, asked: Asked, identity: ModelIdentity
    ) -> Found | None:
        """The answer to the same question in other words, where the operator has switched that on."""
        semantic = self.semantic
        if semantic is None or asked.control.no_cache or asked.control.max_age_seconds == 0:
            return None
        if self.policy.semantic(identity.name, asked.principal) != "on":
            return None
        question = semantic.question(asked, identity)
        found = None if question is None else await semantic.find(question)
        if found is None or not self._is_fresh(asked, identity.name, found[0].entry.created):
            return None
        neighbour, recording = found
        entry = neighbour.entry
        self._count_hit(
            exact, Fingerprint(entry.key, entry.scope), entry.cost_seconds,
            entry.n_prompt + entry.n_output,
        )  # fmt: skip
        self.counts.semantic[identity.name, "given"] += 1
        return Found(
            "HIT",
            recording.id,
            recording.created,
            identity.info,
            Replay(identity.info, list(replayed(recording.steps))),
            age_seconds=_age(recording.created),
            similarity=neighbour.similarity,
        )

    def _count_hit(
        self, exact: ExactCache, wanted: Fingerprint, cost_seconds: float, n_tokens: int
    ) -> None:
        exact.hit(wanted.key, time.time())
        self.counts.saved(wanted.scope.model, cost_seconds, n_tokens)

    # --- answers under way ---------------------------------------------------------------------

    def _join(self, asked: Asked, wanted: Fingerprint, stack: AsyncExitStack) -> Found | None:
        flight = self._flights.get(wanted.key)
        if flight is None or asked.control.no_cache or asked.control.max_age_seconds == 0:
            return None
        if not flight.serves(asked.level, asked.deadline_seconds):
            return None
        reader = flight.join(asked.deadline_seconds)
        stack.callback(flight.leave, reader)
        return Found("COALESCED", flight.id, flight.created, source=reader)

    async def _lead(
        self,
        asked: Asked,
        live: Callable[[], Live],
        identity: ModelIdentity,
        wanted: Fingerprint,
        stack: AsyncExitStack,
    ) -> Found:
        """Compute it. Between the look for others and the note that it is under way nothing is awaited."""
        async with AsyncExitStack() as entered:
            source = await entered.enter_async_context(live())
            flight = Flight(
                source,
                entered.pop_all(),
                answer_id=asked.id,
                created=asked.created,
                level=asked.level,
                deadline_seconds=asked.deadline_seconds,
                on_end=lambda ended: self._ended(asked, identity, wanted, ended),
            )
        self._flights[wanted.key] = flight
        reader = flight.join(None)  # its deadline is the engine's business
        stack.callback(flight.leave, reader)
        return Found("MISS", asked.id, asked.created, source=reader)

    def _ended(
        self, asked: Asked, identity: ModelIdentity, wanted: Fingerprint, flight: Flight
    ) -> None:
        """Keep a whole answer; whoever asks until it is on disk is still answered from memory."""
        if flight.is_over and is_whole(flight.steps, len(asked.requests)):
            self._spawn(self._put(asked, identity, wanted, flight))
        else:
            self._land(wanted, flight)

    async def _put(
        self, asked: Asked, identity: ModelIdentity, wanted: Fingerprint, flight: Flight
    ) -> None:
        try:
            info = flight.info
            if self.exact is not None and info is not None and info.digest == wanted.scope.digest:
                recording = Recording(
                    wanted.key, flight.id, flight.created, as_recorded(flight.steps)
                )
                cost_seconds = time.monotonic() - flight.began_seconds
                self._renderings.drop(wanted.key)
                await self.exact.put(wanted, recording, cost_seconds, question_of(asked.requests))
        finally:
            self._land(wanted, flight)
        question = None if self.semantic is None else self.semantic.question(asked, identity)
        if self.semantic is not None and question is not None:
            shadow = self.policy.semantic(identity.name, asked.principal) == "shadow"
            await self.semantic.learn(question, wanted, flight.steps, judge=shadow)

    def _land(self, wanted: Fingerprint, flight: Flight) -> None:
        if self._flights.get(wanted.key) is flight:
            del self._flights[wanted.key]

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _age(created: float) -> int:
    return max(0, int(time.time() - created))


def _not_cached() -> NotCached:
    return NotCached(
        "there is no answer to this request in the cache, and only-if-cached was asked for"
    )
