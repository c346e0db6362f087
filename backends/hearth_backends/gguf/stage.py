"""GgufStage: layers of one model in one llama.cpp context, computed in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import (
    I32,
    Batch,
    Capabilities,
    Handle,
    Hidden,
    Lease,
    Sampled,
    Stage,
    StageSpec,
)
from hearth_backends.errors import (
    BackendError,
    CapacityError,
    ForeignState,
    StepError,
    Unsupported,
)
from hearth_backends.gguf.adapters import Adapters
from hearth_backends.gguf.context import BatchBuffers, Context
from hearth_backends.gguf.llama import VERSION, Model, collected_errors
from hearth_backends.gguf.readout import HiddenReadout
from hearth_backends.gguf.states import SavedStates
from hearth_backends.kv.contract import KVOp, OpKind, Placement
from hearth_backends.kv.exported import StateTag, pack_state, unpack_state
from hearth_backends.sampling import sample

NAME = "gguf"

Embed = Callable[[I32], Hidden]
"""Tokens [n] to what enters the first layer [n, d_model]."""

Order: TypeAlias = "slice | NDArray[np.intp]"
"""Indices of a batch's rows in the order in which they are computed."""

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
    """One context, a sequence of it for each row."""

    def __init__(self, spec: StageSpec, caps: Capabilities, parts: Parts) -> None:
        self.spec = spec
        self.caps = caps
        self._parts = parts
        self._context = parts.context
        self._buffers = parts.buffers
        self._lengths = [0] * spec.n_seq
        self._uncopied: set[int] = set()  # rows forked since the last step
        self._states = SavedStates(parts.context) if caps.rollback == "checkpoint" else None
        self._adapters = Adapters(parts.context)
        self._closed = False

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        """Compute the step; the handle is finished."""
        self._apply(batch.ops)
        self.recall(batch)
        n = len(batch.tokens)
        if n == 0:
            return _Done(
                _NOTHING if self.spec.head else np.empty((0, self._parts.model.d_model), np.float32)
            )
        ends = self._check(batch)
        self._adapters.use(_adapter_of(batch))
        order = _ascending(batch.seq)
        self._fill(batch, x, order)
        if self._parts.readout is not None:
            self._parts.readout.begin()
        self._decode(n, ends)
        for row, length in ends.items():
            self._lengths[row] = length
        self._uncopied.clear()
        return _Done(self._read(batch, n, order))

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        """What `submit` computed."""
        if not isinstance(handle, _Done):
            raise BackendError(f"not a handle of this stage: {handle!r}")
        return handle.result

    def export(self, placement: Placement, n_tokens: int) -> bytes:
        """The state of a row, to be taken as its first tokens; raises StepError where it has fewer."""
        row = placement.row
        if not 0 < n_tokens <= self._lengths[row]:
            raise StepError(f"row {row} holds {self._lengths[row]} tokens, not {n_tokens}")
        if self._states is not None and n_tokens < self._lengths[row]:
            raise StepError(f"row {row} stands at {self._lengths[row]} tokens, not {n_tokens}")
        if row in self._uncopied:
            raise StepError(f"row {row} was forked, and no step computed since")
        return pack_state(self._tag(n_tokens), self._context.save(row).data)

    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        """See Stage; the whole state needs room for a moment, also where part of it is kept."""
        n_held, state = unpack_state(blob, self._tag(0))
        n_tokens = n_held if n_tokens is None else n_tokens
        if n_tokens > n_held or (self._states is not None and n_tokens < n_held):
            raise ForeignState(f"the exported state is of {n_held} tokens, not {n_tokens}")
        row = placement.row
        self._truncate(row, 0)
        array = np.frombuffer(state, np.uint8)
        if not self._context.load(row, array) or self._context.length(row) < n_tokens:
            self._truncate(row, 0)
            raise StepError(
                f"llama.cpp does not take a state of {n_tokens} tokens (no room, or damaged)"
            )
        self._uncopied.discard(row)
        self._lengths[row] = n_tokens
        if self._states is None:  # the row may have held more when it was exported
            self._truncate(row, n_tokens)
        return n_tokens

    def state_kind(self) -> str:
        """The tag of an exported state, without its tokens."""
        return repr(self._tag(0))

    def load_adapter(self, adapter: int, path: Path, lease: Lease) -> None:
        """See Stage."""
        is_part = self._buffers.vectors is not None
        self._adapters.load(adapter, path, self.spec if is_part else None)

    def close(self) -> None:
        """Free context and model; idempotent."""
        if not self._closed:
            self._closed = True
            self._parts.context.close()
            self._parts.model.close()

    # --- one step ------------------------------------------------------------------------------

    def _apply(self, ops: Sequence[KVOp]) -> None:
        if self._states is not None:
            for row in _rows_to_clear(ops):
                self._truncate(row, 0)
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
                self._uncopied.add(op.dst)
            else:
                self._apply_to_states(op)

    def _apply_to_states(self, op: KVOp) -> None:
        if self._states is None:
            raise Unsupported(f"backend {NAME} does not {op.kind.value} states of this model")
        if op.kind is OpKind.SAVE:
            if self._lengths[op.src] != op.n_tokens:
                raise StepError(
                    f"row {op.src} stands at {self._lengths[op.src]} tokens, not {op.n_tokens} to save"
                )
            self._states.save(op.src, op.dst, op.n_tokens)
        elif op.kind is OpKind.LOAD:
            self._truncate(op.dst, 0)
            self._states.load(op.src, op.dst, op.n_tokens)
            self._lengths[op.dst] = op.n_tokens
        else:
            self._states.drop(op.src)

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

    def _fill(self, batch: Batch, x: Hidden | None, order: Order) -> None:
        n, buffers = len(batch.tokens), self._buffers
        readout = self._parts.readout
        buffers.pos[:n] = batch.pos[order]
        buffers.seq[:n] = batch.seq[order]
        buffers.outputs[:n] = batch.want[order] if readout is None else readout.flag
        if buffers.vectors is None:
            buffers.tokens[:n] = batch.tokens[order]
            return
        if self._parts.embed is not None:
            x = self._parts.embed(batch.tokens)
        if x is None or x.shape != (n, buffers.vectors.shape[1]):
            raise StepError(f"hidden states of shape {None if x is None else x.shape} for {n} rows")
        if self._parts.vector_divisor == 1.0:
            buffers.vectors[:n] = x[order]
        else:
            np.divide(x[order], np.float32(self._parts.vector_divisor), out=buffers.vectors[:n])

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

    def _read(self, batch: Batch, n: int, order: Order) -> Hidden | Sampled:
        if self._parts.readout is not None:
            rows = self._parts.readout.rows(self._context, n)
            return rows if isinstance(order, slice) else rows[np.argsort(order)]
        n_wanted = int(np.count_nonzero(batch.want))
        if n_wanted == 0:
            return _NOTHING
        if batch.sampling is None or len(batch.sampling) != n_wanted:
            raise StepError(
                f"{n_wanted} rows are wanted, but the batch does not say how to sample them"
            )
        logits = self._context.logits(n_wanted)
        if not isinstance(order, slice):
            logits = logits[np.argsort(order[batch.want[order]])]
        return sample(logits, batch.sampling)

    def _tag(self, n_tokens: int) -> StateTag:
        spec = self.spec
        return StateTag(
            NAME, VERSION, self._parts.digest, spec.first, spec.last, spec.kv_dtype, n_tokens
        )


def _adapter_of(batch: Batch) -> int:
    """The adapter of all rows; raises StepError where they differ."""
    if batch.adapter is None:
        return 0
    first = int(batch.adapter[0])
    if (batch.adapter != first).any():
        raise StepError("rows of one batch have different adapters")
    return first


def _rows_to_clear(ops: Sequence[KVOp]) -> list[int]:
    """Rows whose tokens nobody asks for any more: cleared before the first state comes back, there is room."""
    sources: set[int] = set()
    rows: list[int] = []
    for op in ops:
        if op.kind is OpKind.SAVE:
            sources.add(op.src)
        clears = op.kind is OpKind.LOAD or (op.kind is OpKind.TRUNCATE and not op.n_tokens)
        if clears and op.dst not in sources:
            rows.append(op.dst)
    return rows


def _ascending(seq: I32) -> Order:
    """By sequence: llama.cpp computes neighbours in one go, if they come in order."""
    if (np.diff(seq) >= 0).all():
        return slice(None)
    return np.argsort(seq, kind="stable")
