"""CudaStage: the contract of a stage over a runner; what is launched here is asked for later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from hearth_backends.base import (
    Batch,
    Capabilities,
    Handle,
    Hidden,
    Sampled,
    Stage,
    StageSpec,
)
from hearth_backends.cuda.device import Event
from hearth_backends.cuda.memory import out_of_memory, useful_threads
from hearth_backends.cuda.runner import Runner
from hearth_backends.cuda.sampler import Drawn, Sampler, plain_draws
from hearth_backends.cuda.transfer import to_host
from hearth_backends.errors import (
    BackendError,
    CapacityError,
    ForeignState,
    StepError,
    Unsupported,
)
from hearth_backends.kv.contract import KVOp, OpKind, Placement
from hearth_backends.kv.exported import StateTag, pack_state, unpack_state

NAME = "cuda"
STATE_LAYOUT = 1
"""Goes up when exported states change."""

_NOTHING = Sampled(np.empty(0, np.int32))


@dataclass(slots=True)
class _Step:
    """A step that was launched, and where its result will be."""

    drawn: Drawn | None = None  # tokens on their way to the host
    hidden: torch.Tensor | None = None
    event: Event | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a stage is put together from; the stage owns the runner."""

    runner: Runner
    sampler: Sampler
    digest: str
    precision: str  # of exported states
    d_model: int


class CudaStage(Stage):
    """Layers of one model over paged memory on one device."""

    def __init__(self, spec: StageSpec, caps: Capabilities, parts: Parts) -> None:
        self.spec = spec
        self.caps = caps
        self._runner = parts.runner
        self._sampler = parts.sampler
        self._parts = parts
        self._n_threads = useful_threads(spec, parts.runner.weights.n_bytes)
        self._is_closed = False

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        """Launch the step; on the processor it is computed when this returns."""
        self._refuse(batch)
        self._runner.device.use(self._n_threads)
        with self._recovering(), torch.inference_mode():
            self.recall(batch)
            if not len(batch.tokens):
                empty = np.empty((0, self._parts.d_model), np.float32)
                return _Step() if self.spec.head else _Step(hidden=torch.from_numpy(empty))
            return self._launch(batch, x)

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        """See Stage; never waits for the device."""
        if not isinstance(handle, _Step):
            raise BackendError(f"not a handle of this stage: {handle!r}")
        if handle.event is not None and not handle.event.is_done():
            return None
        if handle.hidden is not None:
            hidden: Hidden = handle.hidden.numpy()
            return hidden
        return _NOTHING if handle.drawn is None else handle.drawn.sampled()

    def idle(self) -> bool:
        """Record a step of a size that has come up; on the processor there is nothing to record."""
        if not self._runner.device.has_graphs:
            return False
        self._runner.device.use(self._n_threads)
        with self._recovering(), torch.inference_mode():
            return self._runner.rehearse()

    def export(self, placement: Placement, n_tokens: int) -> bytes:
        """The first tokens of a block table, or of the row that sits there."""
        self._check_blocks(placement, n_tokens)
        self._runner.device.use(self._n_threads)
        with torch.inference_mode():
            state = self._runner.read(placement.blocks, n_tokens)
        return pack_state(self._tag(n_tokens), state)

    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        """See Stage."""
        n_held, state = unpack_state(blob, self._tag(0))
        n_tokens = n_held if n_tokens is None else n_tokens
        if n_tokens > n_held:
            raise ForeignState(f"the exported state is of {n_held} tokens, not {n_tokens}")
        if len(state) != n_held * self._runner.token_bytes():
            raise ForeignState("an exported state of another size")
        self._check_blocks(placement, n_tokens)
        self._runner.device.use(self._n_threads)
        with torch.inference_mode():
            self._runner.write(placement.blocks, state, n_tokens)
        return n_tokens

    def state_kind(self) -> str:
        """The tag of an exported state, without its tokens."""
        return repr(self._tag(0))

    @property
    def peak_bytes(self) -> int | None:
        """Of a GPU what torch has held at most since the load began; nobody measures it on the processor."""
        device = self._runner.device
        return None if device.is_cpu else device.peak_bytes()

    def close(self) -> None:
        """Free the device's memory; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._runner.device.synchronize()
            self._runner.close()
            device = self._runner.device
            del self._runner, self._sampler, self._parts
            device.give_back()

    # --- one step ------------------------------------------------------------------------------

    def _refuse(self, batch: Batch) -> None:
        if batch.adapter is not None and batch.adapter.any():
            raise Unsupported(f"backend {NAME} loads no adapters")
        _check_ops(batch.ops)
        n_wanted = int(np.count_nonzero(batch.want)) if self.spec.head else 0
        if self.caps.max_wants is not None and n_wanted > self.caps.max_wants:
            raise BackendError(f"{n_wanted} wanted rows in a stage of {self.caps.max_wants}")
        if n_wanted and (batch.sampling is None or len(batch.sampling) != n_wanted):
            raise BackendError(f"{n_wanted} rows are wanted, but not said how to sample")

    def _launch(self, batch: Batch, x: Hidden | None) -> _Step:
        runner = self._runner
        host = runner.rows.prepare(batch)
        draws = None
        if batch.sampling is not None and runner.can_sample(host):
            draws = plain_draws(batch.sampling)
        if draws is not None:
            tokens = runner.sample(host, draws)
            runner.rows.remember(batch)
            runner.share_samples()
            drawn = Drawn(to_host(tokens, runner.device))
            return _Step(drawn=drawn, event=runner.device.event())
        out = runner.run(host, x)
        if not self.spec.head:
            hidden = to_host(out.float(), runner.device)
            return _Step(hidden=hidden, event=runner.device.event())
        if batch.sampling is None:
            return _Step(event=runner.device.event())
        drawn = self._sampler.draw(
            out, batch.sampling, runner.rows.last, runner.rows.remember(batch)
        )
        runner.share_samples()
        return _Step(drawn=drawn, event=runner.device.event())

    @contextmanager
    def _recovering(self) -> Iterator[None]:
        """Errors of torch as those of the contract; whatever failed, the next step finds the rows in order."""
        try:
            yield
        except BaseException as error:
            self._runner.rows.forget()
            if self._runner.is_group and isinstance(error, RuntimeError):
                raise BackendError(f"a group of devices lost its step: {error}") from error
            if out_of_memory(error):
                self._runner.device.give_back()
                raise CapacityError(f"the device had no memory for a step: {error}") from error
            if isinstance(error, RuntimeError) and self._runner.device.is_cpu:
                raise StepError(f"torch could not compute a step: {error}") from error
            if isinstance(error, RuntimeError):
                raise BackendError(f"{self._runner.device.name} failed: {error}") from error
            raise

    def _check_blocks(self, placement: Placement, n_tokens: int) -> None:
        n_blocks, block = self._runner.pool.shape[:2]
        held = placement.blocks
        if not 0 < n_tokens <= len(held) * block or not all(0 < b < n_blocks for b in held):
            raise StepError(f"{len(held)} blocks do not hold {n_tokens} tokens")

    def _tag(self, n_tokens: int) -> StateTag:
        spec = self.spec
        version = f"{STATE_LAYOUT} {self._parts.precision}"
        return StateTag(
            NAME, version, self._parts.digest, spec.first, spec.last, spec.kv_dtype, n_tokens
        )


def _check_ops(ops: Sequence[KVOp]) -> None:
    """Tables are all there is to change: what a row forgets is not in its table any more."""
    for op in ops:
        if op.kind is not OpKind.TRUNCATE:
            raise Unsupported(f"backend {NAME} shares blocks, it does not {op.kind.value} rows")
