"""SimStage: layers of the simulated model over its own key-value memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
)
from hearth_backends.kv.contract import Placement
from hearth_backends.sampling import sample
from hearth_backends.sim.clock import SimClock
from hearth_backends.sim.faults import Faults
from hearth_backends.sim.language import U64, SimLanguage, adapter_shift
from hearth_backends.sim.memory import Memory
from hearth_backends.sim.model import D_MODEL
from hearth_backends.sim.options import SimOptions
from hearth_backends.sim.rows import Group, groups_of

_PIECES = np.arange(0, 64, 16, dtype=np.uint64)
_NOTHING = Sampled(np.zeros(0, np.int32))


@dataclass(slots=True)
class _Step:
    """A step that was submitted: its result or its failure, due at a time."""

    due_seconds: float
    result: Hidden | Sampled | None = None
    error: StepError | CapacityError | None = None


class SimStage(Stage):
    """Computes at submit; an asynchronous one keeps the result back until it is polled."""

    def __init__(
        self,
        spec: StageSpec,
        caps: Capabilities,
        options: SimOptions,
        memory: Memory,
        *,
        digest: str,
        clock: SimClock | None = None,
    ) -> None:
        self.spec = spec
        self.caps = caps
        self._options = options
        self._language = SimLanguage(options)
        self._memory = memory
        self._faults = Faults(options)
        self._shifts = {0: adapter_shift("")}  # by number of the adapter
        self._clock = clock
        self._n_failed = 0  # steps in flight that have failed: what follows them fails too
        self._last: dict[int, tuple[int, int]] = {}  # row to position and token of its last sample
        self._tag = f"hearth-sim {digest} {spec.first}-{spec.last} {options.variant}\n".encode()

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        step = _Step(time.monotonic() + self._options.latency_ms / 1000)
        try:
            if self._n_failed:
                raise StepError("the step before this one failed")
            step.result = self._compute(batch, x)
        except (StepError, CapacityError) as error:
            if not self.caps.async_depth:
                raise
            step.error = error
            self._n_failed += 1
        wait_seconds = step.due_seconds - time.monotonic()
        if not self.caps.async_depth and wait_seconds > 0:
            time.sleep(wait_seconds)
        return step

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        if not isinstance(handle, _Step):
            raise BackendError("this is no handle of a simulated stage")
        if time.monotonic() < handle.due_seconds:
            return None
        if handle.error is not None:
            self._n_failed -= 1
            raise handle.error
        return handle.result

    def export(self, placement: Placement, n_tokens: int) -> bytes:
        memory, tokens = self._memory.take(placement, n_tokens)
        return self._tag + tokens.tobytes() + memory.tobytes()

    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        body = blob.removeprefix(self._tag)
        n_layers = self.spec.last - self.spec.first
        is_state = self._options.variant == "states"
        n_fixed, n_each = (8 * n_layers, 4) if is_state else (0, 4 + 8 * n_layers)
        n_held, rest = divmod(len(body) - n_fixed, n_each)
        if body is blob or rest or n_held < 0:
            raise ForeignState("the exported state is of another model, layer range or layout")
        n = n_held if n_tokens is None else n_tokens
        if n > n_held or (is_state and n < n_held):
            raise ForeignState(f"the exported state is of {n_held} tokens, not {n}")
        tokens = np.frombuffer(body, np.int32, n_held)[:n]
        memory = np.frombuffer(body[4 * n_held :], np.uint64)
        if not is_state:
            memory = memory.reshape(n_layers, -1)[:, :n]
        self._memory.put(placement, memory, tokens)
        return n

    def state_kind(self) -> str:
        return self._tag.decode().strip()

    def load_adapter(self, adapter: int, path: Path, lease: Lease) -> None:
        self._shifts[adapter] = adapter_shift(str(path))

    def close(self) -> None:
        self._last.clear()

    # --- one step ------------------------------------------------------------------------------

    def _compute(self, batch: Batch, x: Hidden | None) -> Hidden | Sampled:
        groups = groups_of(batch, self.spec, self.caps)
        self._faults.before()
        for op in batch.ops:
            self._memory.apply(op)
        self.recall(batch)
        tokens, states = self._inputs(batch, groups, x)
        shifts = self._shifts_of(batch)
        self._memory.open(groups, tokens)
        for layer in range(self.spec.first, self.spec.last):
            states = states ^ shifts
            entries = self._language.entry(layer, states)
            read = self._memory.attend(layer - self.spec.first, entries)
            states = self._language.layer(layer, states, read)
        if self._clock is not None:
            share = (self.spec.last - self.spec.first) / self._options.layers
            self._clock.step(len(tokens), sum(group.end for group in groups), share)
        self._faults.after()
        return self._head(batch, groups, states) if self.spec.head else _pack(states, tokens)

    def _inputs(self, batch: Batch, groups: list[Group], x: Hidden | None) -> tuple[I32, U64]:
        """Tokens and hidden states that go into the first layer."""
        if not self.spec.embed:
            if x is None or x.shape != (len(batch.tokens), D_MODEL):
                raise BackendError("a stage without embedding was given no hidden states")
            return _unpack(x)
        tokens = batch.tokens.copy()
        for group in groups:
            if tokens[group.first] == -1:
                tokens[group.first] = self._last_sample(group)
        if (tokens < 0).any() or (tokens >= self._options.vocab).any():
            raise BackendError("a batch has tokens outside the vocabulary")
        return tokens, self._language.embed(tokens)

    def _shifts_of(self, batch: Batch) -> U64:
        """What the adapter of each row does."""
        if batch.adapter is None:
            return np.zeros(len(batch.tokens), np.uint64)
        numbers = batch.adapter.tolist()
        unknown = set(numbers) - set(self._shifts)
        if unknown:
            raise BackendError(f"there is no adapter {min(unknown)}")
        most = self.caps.adapters_per_batch
        if most is not None and len(set(numbers)) > most:
            raise BackendError(f"{len(set(numbers))} adapters in a stage that takes {most}")
        return np.array([self._shifts[number] for number in numbers], np.uint64)

    def _last_sample(self, group: Group) -> int:
        position, token = self._last.get(group.placement.row, (-1, -1))
        if not self.caps.async_depth or position != group.start:
            raise BackendError(f"row {group.placement.row} has no sample for {group.start}")
        return max(token, 0)  # a row that allowed no token is given up when it is known

    def _head(self, batch: Batch, groups: list[Group], states: U64) -> Sampled:
        if batch.sampling is None:
            return _NOTHING
        wanted = np.flatnonzero(batch.want)
        if len(wanted) != len(batch.sampling):
            raise BackendError(f"{len(wanted)} wanted rows, {len(batch.sampling)} to sample")
        says: list[int | None] = [None] * len(wanted)
        if self._options.says != "noise":
            says = [self._language.says_next(self._memory.history(row)) for row in wanted.tolist()]
        sampled = sample(self._language.logits(states[wanted], says), batch.sampling)
        if self.caps.async_depth:
            self._remember(batch, wanted.tolist(), sampled.tokens.tolist())
        return sampled

    def _remember(self, batch: Batch, wanted: list[int], tokens: list[int]) -> None:
        for row, token in zip(wanted, tokens, strict=True):
            self._last[int(batch.seq[row])] = (int(batch.pos[row]) + 1, token)


def _pack(states: U64, tokens: I32) -> Hidden:
    """Hidden states as floats [n, D_MODEL]: four exact pieces of 16 bits, and the token."""
    pieces = (states[:, None] >> _PIECES) & np.uint64(0xFFFF)
    return np.concatenate([pieces, tokens[:, None]], axis=1, dtype=np.float32, casting="unsafe")


def _unpack(x: Hidden) -> tuple[I32, U64]:
    states = np.bitwise_or.reduce(x[:, :4].astype(np.uint64) << _PIECES, axis=1)
    return x[:, 4].astype(np.int32), states
