"""Books: each request that is under way, where it was counted in, and what its principal has used."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from hearthd import wire
from hearthd.serving.admission import Admission, Place
from hearthd.serving.principal import Principal
from hearthd.serving.quota import Quota, Size, Standing
from hearthd.serving.under_way import Tokens
from hearthd.serving.work import Work


class Books:
    """Counts requests in, wherever they count, and out again. Belongs to the event loop."""

    def __init__(self) -> None:
        self.ended = Tokens()
        """Of requests that are over."""
        self._tickets: dict[int, _Ticket] = {}  # by number: requests admitted and not over
        self._quotas: dict[str, Quota] = {}  # by name of the principal
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def n_open(self) -> int:
        """Requests admitted and not over."""
        return len(self._tickets)

    def enter(
        self,
        admission: Admission,
        concurrency: int,
        principal: Principal,
        frame: wire.Submit | wire.Embed,
    ) -> None:
        """Count a request in wherever it counts, or nowhere.

        Raises Overloaded, ConcurrencyLimited, RateLimited, DeadlineExceeded.
        """
        now = time.monotonic()
        place = Place(frame.priority, principal.name)
        deadline = frame.deadline_seconds
        left = None if deadline is None else deadline - now
        admission.check(concurrency, now, place, seconds_left=left)
        size = size_of(frame)
        quota = self._quota(principal)
        charge = quota.admit(size, now)
        admission.admit(concurrency, now, place)
        self._tickets[frame.rid] = _Ticket(admission, quota, place, size, charge, now)
        self._idle.clear()

    def leave(self, work: Work) -> None:
        """Count a request out, wherever it was counted in."""
        now, timeline = time.monotonic(), work.timeline
        ticket = self._tickets.pop(work.rid)
        served = work.finish in ("stop", "length")
        ticket.admission.leave(now, ticket.place, served=served)
        ticket.quota.leave(
            ticket.size,
            ticket.charge,
            n_prompt=timeline.n_prompt,
            n_output=timeline.n_output,
            seconds=now - ticket.admitted_seconds,
            now=now,
        )
        if not self._tickets:
            self._idle.set()
        self.ended = Tokens(
            self.ended.n_prompt + timeline.n_prompt, self.ended.n_output + timeline.n_output
        )

    async def until_empty(self) -> None:
        """Wait until every request is over."""
        await self._idle.wait()

    def standing(self, principal: Principal) -> Standing:
        """How a principal stands to its limits."""
        return self._quota(principal).standing(time.monotonic())

    def standings(self) -> list[Standing]:
        """How all who have asked for something stand to their limits."""
        now = time.monotonic()
        return [quota.standing(now) for quota in self._quotas.values()]

    def _quota(self, principal: Principal) -> Quota:
        quota = self._quotas.get(principal.name)
        if quota is None or quota.limits != principal.limits:  # of another key under an old name
            quota = self._quotas[principal.name] = Quota(
                principal.name, principal.limits, time.monotonic()
            )
        return quota


@dataclass(frozen=True, slots=True)
class _Ticket:
    """Where an admitted request has been counted in."""

    admission: Admission
    quota: Quota
    place: Place
    size: Size
    charge: int  # tokens
    admitted_seconds: float


def size_of(frame: wire.Submit | wire.Embed) -> Size:
    """What the frame tells of the request's length; of a chat, the text of its messages. Pure."""
    if isinstance(frame, wire.Embed):
        if frame.token_lists is not None:
            return Size(sum(map(len, frame.token_lists)), 0, max_tokens=0)
        texts = frame.texts or []
        n_bytes = sum(map(len, texts)) + len(frame.query or "") * len(texts)
        return Size(None, n_bytes, max_tokens=0)
    if frame.tokens is not None:
        return Size(len(frame.tokens), 0, frame.max_tokens)
    if frame.text is not None:
        return Size(None, len(frame.text), frame.max_tokens)
    contents = (message.get("content") for message in frame.messages or ())
    n_bytes = sum(len(content) for content in contents if isinstance(content, str))
    return Size(None, n_bytes, frame.max_tokens)
