"""EncodingQueue: which texts of which jobs make up the next batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hearthd import wire
from hearthd.engine.encoding.job import Job, Text
from hearthd.engine.fairness import FairShare


@dataclass(frozen=True, slots=True)
class Item:
    """One text of a job, in a batch."""

    job: Job
    index: int

    @property
    def text(self) -> Text:
        return self.job.texts[self.index]


class EncodingQueue:
    """Higher classes first, then the key that was served least, then its job that was served least.

    So one text comes soon, whoever has sent a thousand. A job that had no turn for `aging_seconds`
    gets one before all others.
    """

    def __init__(self, *, batch_tokens: int, batch_texts: int, aging_seconds: float) -> None:
        """A batch ends with the text that reaches `batch_tokens`; a longer one goes alone."""
        self._most = (batch_tokens, batch_texts)
        self._batch_tokens, self._batch_texts = self._most
        self._aging_seconds = aging_seconds
        self._jobs: dict[int, Job] = {}
        self._shares = FairShare()

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def n_started(self) -> int:
        """Jobs that have had a text in a batch."""
        return sum(job.started_seconds is not None for job in self._jobs.values())

    @property
    def has_work(self) -> bool:
        """Whether any text waits."""
        return any(job.waiting for job in self._jobs.values())

    def hold(self, share: wire.Hold) -> None:
        """Make batches of that part of their size from now on."""
        self._batch_tokens, self._batch_texts = map(share.of, self._most)

    def add(self, job: Job, now: float) -> None:
        """A job comes; it starts where the other jobs of its key are."""
        peers = [
            other.served
            for other in self._jobs.values()
            if (other.priority.level, other.priority.key) == (job.priority.level, job.priority.key)
        ]
        job.served = min(peers, default=0.0)
        job.turn_seconds = now
        self._jobs[job.id] = job
        self._shares.join(job)

    def remove(self, rid: int) -> Job | None:
        """A job leaves: done, failed, or its client has gone. None where it is not here."""
        job = self._jobs.pop(rid, None)
        if job is not None:
            self._shares.leave(job)
        return job

    def take(self, now: float) -> list[Item]:
        """The next batch: at least one text where any waits."""
        batch: list[Item] = []
        n_tokens = 0
        for job in self._turns(now):
            while job.waiting and len(batch) < self._batch_texts:
                n = len(job.texts[job.waiting[-1]].tokens)
                if batch and n_tokens + n > self._batch_tokens:
                    return batch
                batch.append(Item(job, job.waiting.pop()))
                n_tokens += n
                self._served(job, n, now)
            if job.n_failures or len(batch) == self._batch_texts:
                break
        return batch

    def give_back(self, batch: list[Item]) -> None:
        """A batch failed: its texts wait again, and no other job's share a batch with them."""
        for item in reversed(batch):
            item.job.waiting.append(item.index)
        for job in {item.job.id: item.job for item in batch}.values():
            job.n_failures += 1

    def _turns(self, now: float) -> Iterator[Job]:
        """Jobs with texts that wait, in order; those that failed before are not mixed with others."""
        waiting = [job for job in self._jobs.values() if job.waiting]
        while waiting:
            job = min(waiting, key=lambda job: self._order(job, now))
            waiting = [other for other in waiting if other is not job and not other.n_failures]
            yield job

    def _order(self, job: Job, now: float) -> tuple[bool, int, float, float, bool, float]:
        is_old = now - job.turn_seconds >= self._aging_seconds
        priority, has_started = job.priority, job.started_seconds is not None
        share = self._shares.served(job)
        arrived = priority.arrived_seconds
        return (not is_old, -priority.level, share, job.served, has_started, arrived)

    def _served(self, job: Job, n_tokens: int, now: float) -> None:
        job.served += n_tokens
        job.turn_seconds = now
        if job.started_seconds is None:
            job.started_seconds = now
        self._shares.charge(job, n_tokens)
