"""GgufStage: layers of one model in one llama.cpp context, computed in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hearth_backends.base import (
    I32,
    Batch,
    Capabilities,
    Handle,
    Hidden,
    KVOp,
    Lease,
    OpKind,
    Placement,
    Sampled,
    Stage,
    StageSpec,
)
from hearth_backends.errors import BackendError, CapacityError, StepError, Unsupported
from hearth_backends.gguf.context import BatchBuffers, Context
from hearth_backends.gguf.llama import VERSION, Model, collected_errors
from hearth_backends.gguf.readout import HiddenReadout
from hearth_backends.gguf.state import StateTag, pack_state, unpack_state
from hearth_backends.sampling import sample

NAME = "gguf"

Embed = Callable[[I32], Hidden]
"""Tokens [n] to what enters the first layer [n, d_model]."""

_NOTHING = Sampled(np.empty(0, np.int32))


@dataclass(frozen=True, slots=True)
class _Done:
    """The handle of a finished step."""

    result: Hidden | Sampled


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stage is put together from; the stage owns model and context."""

    model: Model
    context: Context
    buffers: BatchBuffers
    digest: str
    embed: Embed | None  # None: the batch takes tokens, or the stage takes hidden states
    readout: HiddenReadout | None  # None: the stage has the head
    vector_divisor: float = 1.0


class GgufStage(Stage):
    """One context with `spec.n_seq` rows and, after them, one row of scratch for exports."""

    def __init__(self, spec: StageSpec, caps: Capabilities, parts: Parts) -> None:
        self.spec = spec
        self.caps = caps
        self._parts = parts
        self._context = parts.context
        self._buffers = parts.buffers
        self._lengths = [0] * spec.n_seq
        self._closed = False

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        """Compute the step; the handle is finished."""
        self._apply(batch.ops)
        n = len(batch.tokens)
        if n == 0:
            return _Done(
                _NOTHING if self.spec.head else np.empty((0, self._parts.model.d_model), np.float32)
            )
        ends = self._check(batch)
        self._fill(batch, x)
        if self._parts.readout is not None:
            self._parts.readout.begin()
        self._decode(n, ends)
        for row, length in ends.items():
            self._lengths[row] = length
        return _Done(self._read(batch, n))

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        """What `submit` computed."""
        if not isinstance(handle, _Done):
            raise BackendError(f"not a handle of this stage: {handle!r}")
        return handle.result

    def export(self, placement: Placement, n_tokens: int) -> bytes:
        """The state of a row's first tokens; raises StepError where it has fewer."""
        row, scratch = placement.row, self.spec.n_seq
        if not 0 < n_tokens <= self._lengths[row]:
            raise StepError(f"row {row} holds {self._lengths[row]} tokens, not {n_tokens}")
        self._context.fork(row, scratch, n_tokens)
        try:
            return pack_state(self._tag(n_tokens), self._context.save(scratch))
        finally:
            self._context.truncate(scratch, 0)

    def restore(self, placement: Placement, blob: bytes) -> int:
        """Put an exported state into a row; raises StepError for a foreign blob, or where it finds no room."""
        n_tokens, state = unpack_state(blob, self._tag(0))
        row = placement.row
        self._truncate(row, 0)
        if not self._context.load(row, state):
            self._truncate(row, 0)
            raise StepError(
                f"llama.cpp does not take a state of {n_tokens} tokens (no room, or damaged)"
            )
        self._lengths[row] = self._context.length(row)
        if self._lengths[row] != n_tokens:
            self._truncate(row, 0)
            raise StepError("an exported state that holds other tokens than its tag says")
        return n_tokens

    def load_adapter(self, adapter: int, path: Path, lease: Lease) -> None:
        """Refused."""
        raise Unsupported("backend gguf loads no adapters")

    def close(self) -> None:
        """Free context and model; idempotent."""
        if not self._closed:
            self._closed = True
            self._parts.context.close()
            self._parts.model.close()

    # --- one step ------------------------------------------------------------------------------

    def _apply(self, ops: Sequence[KVOp]) -> None:
        for op in ops:
            if op.kind is OpKind.TRUNCATE:
                self._truncate(op.dst, op.n_tokens)
            elif op.kind is OpKind.FORK:
                if self._lengths[op.src] < op.n_tokens:
                    raise StepError(
                        f"row {op.src} holds {self._lengths[op.src]} tokens, not {op.n_tokens} to fork"
                    )
                if op.src == op.dst:
                    self._truncate(op.dst, op.n_tokens)
                    continue
                self._context.fork(op.src, op.dst, op.n_tokens)
                self._lengths[op.dst] = op.n_tokens
            else:
                raise Unsupported(f"backend {NAME} does not {op.kind.value} states")

    def _truncate(self, row: int, n_tokens: int) -> None:
        self._context.truncate(row, n_tokens)
        self._lengths[row] = min(self._lengths[row], n_tokens)

    def _check(self, batch: Batch) -> dict[int, int]:
        """Each row's length after the step; raises StepError for what llama.cpp would abort on or let pass."""
        n = len(batch.tokens)
        if n > self.spec.n_rows:
            raise StepError(f"{n} rows in a batch, and the stage was made for {self.spec.n_rows}")
        if self.caps.max_wants is not None and np.count_nonzero(batch.want) > self.caps.max_wants:
            raise StepError(f"more than {self.caps.max_wants} wanted rows in a batch")
        if batch.adapter is not None and batch.adapter.any():
            raise Unsupported(f"backend {NAME} loads no adapters")
        starts = np.flatnonzero(np.diff(batch.seq, prepend=-1))
        ends: dict[int, int] = {}
        stops = [*starts[1:].tolist(), n]
        for start, stop in zip(starts.tolist(), stops, strict=True):
            row, first = int(batch.seq[start]), int(batch.pos[start])
            if not 0 <= row < self.spec.n_seq or row in ends:
                raise StepError(
                    f"row {row} in a batch, once for each of {self.spec.n_seq} rows allowed"
                )
            if first != self._lengths[row]:
                raise StepError(
                    f"row {row} holds {self._lengths[row]} tokens, the batch goes on at {first}"
                )
            ends[row] = first + stop - start
        return ends

    def _fill(self, batch: Batch, x: Hidden | None) -> None:
        n, buffers = len(batch.tokens), self._buffers
        buffers.pos[:n] = batch.pos
        buffers.seq[:n] = batch.seq
        buffers.outputs[:n] = (
            batch.want if self._parts.readout is None else self._parts.readout.flag
        )
        if buffers.vectors is None:
            buffers.tokens[:n] = batch.tokens
            return
        if self._parts.embed is not None:
            x = self._parts.embed(batch.tokens)
        if x is None or x.shape != (n, buffers.vectors.shape[1]):
            raise StepError(f"hidden states of shape {None if x is None else x.shape} for {n} rows")
        if self._parts.vector_divisor == 1.0:
            buffers.vectors[:n] = x
        else:
            np.divide(x, np.float32(self._parts.vector_divisor), out=buffers.vectors[:n])

    def _decode(self, n: int, ends: dict[int, int]) -> None:
        with collected_errors() as errors:
            code = self._context.decode(self._buffers, n)
        if code == 0:
            return
        for row in ends:
            self._lengths[row] = self._context.length(row)
        words = f"llama_decode returned {code}: {'; '.join(errors) or 'no reason given'}"
        if code == 1:
            raise CapacityError(f"no room in key-value memory for {n} rows")
        if code in (-1, 2):
            raise StepError(words)
        raise BackendError(words)

    def _read(self, batch: Batch, n: int) -> Hidden | Sampled:
        if self._parts.readout is not None:
            return self._parts.readout.rows(self._context, n)
        n_wanted = int(np.count_nonzero(batch.want))
        if n_wanted == 0:
            return _NOTHING
        if batch.sampling is None or len(batch.sampling) != n_wanted:
            raise StepError(
                f"{n_wanted} rows are wanted, but the batch does not say how to sample them"
            )
        return sample(self._context.logits(n_wanted), batch.sampling)

    def _tag(self, n_tokens: int) -> StateTag:
        spec = self.spec
        return StateTag(
            NAME, VERSION, self._parts.digest, spec.first, spec.last, spec.kv_dtype, n_tokens
        )
