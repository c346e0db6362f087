"""OnnxStage: layers of one model in one ONNX Runtime session, computed in the caller's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import (
    F32,
    I32,
    Batch,
    Capabilities,
    Handle,
    Hidden,
    Sampled,
    Stage,
    StageSpec,
)
from hearth_backends.errors import BackendError, ForeignState, StepError, Unsupported
from hearth_backends.kv.contract import KVOp, OpKind, Placement
from hearth_backends.kv.exported import StateTag, pack_state, unpack_state
from hearth_backends.onnx.slots import Slots
from hearth_backends.sampling import sample

NAME = "onnx"
STATE_LAYOUT = 1
"""Goes up when exported states change."""
CHUNK_ROWS = 256
"""Tokens of one sequence in one run at most: more at once were slower (attention's scores leave the cache)."""

Embed = Callable[[I32], NDArray[Any]]
"""Tokens [n] to what enters the first layer [n, d_model], or the tokens as they enter the graph [n]."""

_NOTHING = Sampled(np.empty(0, np.int32))


class StepRunner(Protocol):
    """Runs a session over neighbouring slots."""

    def run(
        self,
        first: int,
        length: int,
        before: Sequence[int],
        x: NDArray[Any],
        wanted: NDArray[np.intp],
    ) -> F32:
        """`length` tokens of each of the slots from `first` on, which hold `before` tokens.

        `x` is what enters, slot after slot. Logits of the wanted rows, or hidden states of all of them;
        they are overwritten by the next run. Several tokens: of one slot only. Raises StepError.
        """

    def close(self) -> None:
        """Free the session; idempotent."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stage is put together from; the stage owns the runners."""

    runner: StepRunner  # of prompts
    decoder: StepRunner  # of what is decoded; mostly the same one
    slots: Slots
    digest: str
    state_version: str  # of exported states, beside what the spec says
    d_model: int
    n_vocab: int
    embed: Embed | None  # None: the stage takes hidden states


@dataclass(frozen=True, slots=True)
class _Done:
    """The handle of a finished step."""

    result: Hidden | Sampled


@dataclass(frozen=True, slots=True)
class _Group:
    """Neighbouring rows of a batch that belong to one sequence."""

    row: int
    start: int
    stop: int

    @property
    def n(self) -> int:
        return self.stop - self.start


class OnnxStage(Stage):
    """One session; one run for all sequences with one row, and runs for each of the others."""

    def __init__(self, spec: StageSpec, caps: Capabilities, parts: Parts) -> None:
        self.spec = spec
        self.caps = caps
        self._parts = parts
        self._slots = parts.slots
        self._closed = False

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        """Compute the step; the handle is finished."""
        self._apply(batch.ops)
        self.recall(batch)
        if len(batch.tokens) == 0:
            return _Done(
                _NOTHING if self.spec.head else np.empty((0, self._parts.d_model), np.float32)
            )
        groups = self._groups(batch)
        self._check(batch)
        x = self._entering(batch, x)
        with self._all_or_nothing(groups):
            out = self._compute(batch, groups, x)
        if not self.spec.head:
            return _Done(out)
        if len(out) == 0:
            return _Done(_NOTHING)
        assert batch.sampling is not None  # _check saw to it
        return _Done(sample(out[:, : self._parts.n_vocab], batch.sampling))

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        """What `submit` computed."""
        if not isinstance(handle, _Done):
            raise BackendError(f"not a handle of this stage: {handle!r}")
        return handle.result

    def export(self, placement: Placement, n_tokens: int) -> bytes:
        """The first tokens of a row; raises StepError where it has fewer."""
        row = placement.row
        if not 0 < n_tokens <= self._slots.lengths[row]:
            raise StepError(f"row {row} holds {self._slots.lengths[row]} tokens, not {n_tokens}")
        return pack_state(self._tag(n_tokens), self._slots.read(row, n_tokens))

    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        """See Stage."""
        n_held, state = unpack_state(blob, self._tag(0))
        n_tokens = n_held if n_tokens is None else n_tokens
        if n_tokens > n_held:
            raise ForeignState(f"the exported state is of {n_held} tokens, not {n_tokens}")
        if n_tokens > self.spec.n_ctx:
            raise StepError(f"no room for {n_tokens} tokens in a row of {self.spec.n_ctx}")
        try:
            self._slots.write(placement.row, state, n_held, n_tokens)
        except ValueError as error:
            raise ForeignState("an exported state of another size") from error
        return n_tokens

    def state_kind(self) -> str:
        """The tag of an exported state, without its tokens."""
        return repr(self._tag(0))

    def close(self) -> None:
        """Free the session; idempotent."""
        if not self._closed:
            self._closed = True
            self._parts.runner.close()
            self._parts.decoder.close()

    # --- one step ------------------------------------------------------------------------------

    def _apply(self, ops: Sequence[KVOp]) -> None:
        for op in ops:
            if op.kind is OpKind.TRUNCATE:
                self._slots.truncate(op.dst, op.n_tokens)
            elif op.kind is OpKind.FORK:
                held = self._slots.lengths[op.src]
                if held < op.n_tokens:
                    raise StepError(f"row {op.src} holds {held} tokens, not {op.n_tokens} to fork")
                self._slots.fork(op.src, op.dst, op.n_tokens)
            else:
                raise Unsupported(f"backend {NAME} does not {op.kind.value} states")

    def _groups(self, batch: Batch) -> list[_Group]:
        """The batch's sequences; raises StepError for rows that do not go on where theirs end."""
        starts = np.flatnonzero(np.diff(batch.seq, prepend=-1)).tolist()
        stops = [*starts[1:], len(batch.tokens)]
        groups: list[_Group] = []
        seen: set[int] = set()
        for start, stop in zip(starts, stops, strict=True):
            row, first = int(batch.seq[start]), int(batch.pos[start])
            if not 0 <= row < self.spec.n_seq or row in seen:
                raise StepError(
                    f"row {row} in a batch, once for each of {self.spec.n_seq} rows allowed"
                )
            seen.add(row)
            if first != self._slots.lengths[row]:
                raise StepError(
                    f"row {row} holds {self._slots.lengths[row]} tokens, the batch goes on at {first}"
                )
            if first + stop - start > self.spec.n_ctx:
                raise StepError(f"row {row} has room for {self.spec.n_ctx} tokens")
            groups.append(_Group(row, start, stop))
        return groups

    def _check(self, batch: Batch) -> None:
        n, n_wanted = len(batch.tokens), int(np.count_nonzero(batch.want))
        if n > self.spec.n_rows:
            raise StepError(f"{n} rows in a batch, and the stage was made for {self.spec.n_rows}")
        if batch.adapter is not None and batch.adapter.any():
            raise Unsupported(f"backend {NAME} loads no adapters")
        if not self.spec.head:
            return
        if self.caps.max_wants is not None and n_wanted > self.caps.max_wants:
            raise StepError(f"more than {self.caps.max_wants} wanted rows in a batch")
        if n_wanted and (batch.sampling is None or len(batch.sampling) != n_wanted):
            raise StepError(
                f"{n_wanted} rows are wanted, but the batch does not say how to sample them"
            )

    def _entering(self, batch: Batch, x: Hidden | None) -> NDArray[Any]:
        """What enters the first layer [n, d_model], or the graph [n]."""
        if self._parts.embed is not None:
            return self._parts.embed(batch.tokens)
        n = len(batch.tokens)
        if x is None or x.shape != (n, self._parts.d_model):
            raise StepError(f"hidden states of shape {None if x is None else x.shape} for {n} rows")
        return x

    @contextmanager
    def _all_or_nothing(self, groups: Sequence[_Group]) -> Iterator[None]:
        """Rows that grew in a step that failed are as long as before."""
        before = {group.row: self._slots.lengths[group.row] for group in groups}
        try:
            yield
        except BaseException:
            for row, length in before.items():
                self._slots.truncate(row, length)
            raise

    def _compute(self, batch: Batch, groups: Sequence[_Group], x: NDArray[Any]) -> F32:
        """Logits of all wanted rows, or hidden states of all rows, in the batch's order."""
        runner_of = self._runners(batch, groups)
        singles = [group for group in groups if group.n == 1]
        if len(singles) == len(groups) and len(set(runner_of)) == 1:
            return self._decode(runner_of[0], batch, singles, x)
        n_out = int(np.count_nonzero(batch.want)) if self.spec.head else len(batch.tokens)
        place = np.cumsum(batch.want) - 1 if self.spec.head else np.arange(len(batch.tokens))
        out: F32 | None = None

        def put(rows: NDArray[np.intp], values: F32) -> None:
            nonlocal out
            if out is None:
                out = np.empty((n_out, values.shape[1]), np.float32)
            out[place[rows]] = values

        for group, runner in zip(groups, runner_of, strict=True):
            if group.n > 1:
                for start in range(group.start, group.stop, CHUNK_ROWS):
                    rows = np.arange(start, min(start + CHUNK_ROWS, group.stop))
                    put(self._leaving(batch, rows), self._chunk(runner, batch, group.row, rows, x))
        for runner in dict.fromkeys(runner_of):
            singles = [
                g for g, its in zip(groups, runner_of, strict=True) if g.n == 1 and its is runner
            ]
            if singles:
                rows = np.array([group.start for group in singles])
                put(self._leaving(batch, rows), self._decode(runner, batch, singles, x))
        return np.empty((0, 0), np.float32) if out is None else out

    def _runners(self, batch: Batch, groups: Sequence[_Group]) -> list[StepRunner]:
        """For each group: who decodes, where all its rows sample a token after the first of an output."""
        prompts, decoder = self._parts.runner, self._parts.decoder
        if prompts is decoder or batch.sampling is None:
            return [prompts] * len(groups)
        decoded = np.zeros(len(batch.tokens), np.bool_)
        decoded[batch.want] = (batch.sampling.positions > 0) & (batch.sampling.targets < 0)
        return [decoder if decoded[group.start : group.stop].all() else prompts for group in groups]

    def _leaving(self, batch: Batch, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Those of a run's rows of which something comes out."""
        return rows[batch.want[rows]] if self.spec.head else rows

    def _chunk(
        self, runner: StepRunner, batch: Batch, row: int, rows: NDArray[np.intp], x: NDArray[Any]
    ) -> F32:
        """One sequence's next tokens."""
        slots = self._slots
        wanted = np.flatnonzero(batch.want[rows])
        n_before = slots.lengths[row]
        out = runner.run(slots.slot_of[row], len(rows), [n_before], x[rows], wanted)
        slots.lengths[row] = n_before + len(rows)
        return out

    def _decode(
        self, runner: StepRunner, batch: Batch, singles: Sequence[_Group], x: NDArray[Any]
    ) -> F32:
        """One token of each of these sequences; results in the order of the groups."""
        slots = self._slots
        first = slots.gather([group.row for group in singles])
        at = np.array([slots.slot_of[group.row] - first for group in singles])
        in_slots = np.argsort(at)
        rows = np.array([group.start for group in singles])
        before = [slots.lengths[singles[i].row] for i in in_slots]
        wanted = at[batch.want[rows]]
        out = runner.run(first, 1, before, x[rows[in_slots]], wanted)
        for group in singles:
            slots.lengths[group.row] += 1
        return out if self.spec.head else out[at]

    def _tag(self, n_tokens: int) -> StateTag:
        spec = self.spec
        version = f"{STATE_LAYOUT} {spec.weight_kind} {self._parts.state_version}"
        return StateTag(
            NAME,
            version.strip(),
            self._parts.digest,
            spec.first,
            spec.last,
            spec.kv_dtype,
            n_tokens,
        )
