"""EncodingCore: batches from the queue through the encoder, and results out of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np

from hearth_backends.encoder import Encoder
from hearth_backends.errors import StepError
from hearthd import wire
from hearthd.engine.encoding.job import Job
from hearthd.engine.encoding.queue import EncodingQueue, Item

log = logging.getLogger(__name__)

MAX_FAILURES = 2
"""Batches with a text of a job that may fail before the job does."""
PROBE_TOKENS = (0,)

Answer = wire.Embedded | wire.Reject


@dataclass(slots=True)
class Counters:
    """Totals since start."""

    n_steps: int = 0
    n_texts: int = 0
    n_tokens: int = 0
    n_step_failures: int = 0
    busy_seconds: float = 0.0


class EncodingCore:
    """One batch a step; used from one thread. The caller closes the encoder."""

    def __init__(self, encoder: Encoder, queue: EncodingQueue) -> None:
        self.encoder = encoder
        self.queue = queue
        self.counters = Counters()
        self._probes: list[int] = []

    @property
    def has_work(self) -> bool:
        return self.queue.has_work or bool(self._probes)

    def add(self, job: Job) -> None:
        """A job comes."""
        self.queue.add(job, time.monotonic())

    def cancel(self, rid: int) -> None:
        """Its client has gone: what is not computed yet never will be."""
        self.queue.remove(rid)

    def probe(self, number: int) -> None:
        """Compute something in the next step, if only to show that it works."""
        self._probes.append(number)

    def step(self) -> list[Answer]:
        """Compute one batch; the jobs that are over. Raises BackendError when the encoder is beyond use."""
        batch = self.queue.take(time.monotonic())
        if not batch:
            self.encoder.encode([list(PROBE_TOKENS)])
            return []
        began = time.monotonic()
        counters = self.counters
        try:
            vectors = self.encoder.encode(
                [item.text.tokens for item in batch], [item.text.second for item in batch]
            )
        except StepError as error:
            counters.n_step_failures += 1
            log.warning("a batch of %d texts failed: %s", len(batch), error)
            return self._failed(batch, error)
        finally:
            counters.n_steps += 1
            counters.busy_seconds += time.monotonic() - began
        counters.n_texts += len(batch)
        counters.n_tokens += sum(len(item.text.tokens) for item in batch)
        for item, vector in zip(batch, vectors, strict=True):
            item.job.keep(item.index, vector)
        return [self._done(job) for job in _jobs(batch) if job.is_done]

    def take_probed(self) -> list[int]:
        """The probes that the last step has answered."""
        probes, self._probes = self._probes, []
        return probes

    def _done(self, job: Job) -> wire.Embedded:
        self.queue.remove(job.id)
        values = job.values()
        return wire.Embedded(
            rid=job.id,
            n=len(values),
            dim=values.shape[1],
            values=np.ascontiguousarray(values, "<f4").tobytes(),
            n_prompt=job.n_prompt,
            started_seconds=job.started_seconds,
        )

    def _failed(self, batch: list[Item], error: StepError) -> list[Answer]:
        """Once more, each job for itself; a job that fails again is over."""
        self.queue.give_back(batch)
        over = [job for job in _jobs(batch) if job.n_failures >= MAX_FAILURES]
        for job in over:
            self.queue.remove(job.id)
        return [wire.Reject(job.id, 500, error.code, str(error)) for job in over]


def _jobs(batch: list[Item]) -> list[Job]:
    """Each once."""
    return list({item.job.id: item.job for item in batch}.values())
