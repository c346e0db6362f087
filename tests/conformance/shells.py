"""Stages around stages: what the suite does to any backend without its help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import Batch, Handle, Hidden, Lease, Sampled, Stage
from hearth_backends.errors import CapacityError, StepError
from hearth_backends.kv.contract import Placement


class StageShell(Stage):
    """Passes everything on to another stage."""

    def __init__(self, inner: Stage) -> None:
        self.inner = inner
        self.spec = inner.spec
        self.caps = inner.caps

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        return self.inner.submit(batch, x)

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        return self.inner.poll(handle)

    def export(self, placement: Placement, n_tokens: int) -> bytes:
        return self.inner.export(placement, n_tokens)

    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        return self.inner.restore(placement, blob, n_tokens)

    def state_kind(self) -> str:
        return self.inner.state_kind()

    def load_adapter(self, adapter: int, path: Path, lease: Lease) -> None:
        self.inner.load_adapter(adapter, path, lease)

    def close(self) -> None:
        self.inner.close()


@dataclass(frozen=True, slots=True)
class _Doomed:
    """A step that runs to its end and is then said to have failed."""

    handle: Handle


class Flaky(StageShell):
    """Every k-th step fails: in turn before it has begun and after all of it has been computed."""

    def __init__(self, inner: Stage, every: int) -> None:
        super().__init__(inner)
        self._every = every
        self._n_steps = 0

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        self._n_steps += 1
        n_failed, rest = divmod(self._n_steps, self._every)
        if rest:
            return self.inner.submit(batch, x)
        if n_failed % 2:
            raise StepError("this step fails before it begins")
        return _Doomed(self.inner.submit(batch, x))

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        if not isinstance(handle, _Doomed):
            return self.inner.poll(handle)
        if self.inner.poll(handle.handle) is None:
            return None
        raise StepError("this step fails at its end")


class Starving(StageShell):
    """Every k-th step finds no room in the last stage's memory, and the next one does not either.

    The first time something may still be in flight, which is waited for; the second time nothing is.
    """

    def __init__(self, inner: Stage, every: int) -> None:
        super().__init__(inner)
        self._every = every
        self._n_steps = 0

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        self._n_steps += 1
        if self.spec.head and self._n_steps > 1 and self._n_steps % self._every < 2:
            raise CapacityError("no room, as a test told it")
        return self.inner.submit(batch, x)


class Masking(StageShell):
    """Only some tokens may be sampled, as a grammar would have it."""

    def __init__(self, inner: Stage, mask: NDArray[np.uint32]) -> None:
        super().__init__(inner)
        self._mask = mask

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        if batch.sampling is not None:
            mask = np.repeat(self._mask, len(batch.sampling), axis=0)
            batch = replace(batch, sampling=replace(batch.sampling, mask=mask))
        return self.inner.submit(batch, x)


def mask_of(tokens: Sequence[int], n_vocab: int) -> NDArray[np.uint32]:
    """A mask [1, ceil(n_vocab / 32)] that allows these tokens."""
    bits = np.zeros(-(-n_vocab // 32) * 32, np.bool_)
    bits[list(tokens)] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)[None, :]
