"""RemoteStage: a stage in a process of its own, as the engine sees it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hearth_backends.base import Batch, Handle, Hidden, Lease, Sampled, Stage
from hearth_backends.errors import BackendError, Unsupported
from hearth_backends.kv.contract import Placement
from hearthd.engine.stages.exchange import Exchange, PeerGone, Regions, pass_regions
from hearthd.engine.stages.order import (
    Answer,
    AskPeak,
    Command,
    Compute,
    Export,
    Idle,
    LoadAdapter,
    Loaded,
    Progress,
    Restore,
    StageOrder,
)

END_SECONDS = 10.0
"""For a stage to free what it has; then its process is killed."""
_OTHER_BYTES = 1 << 20
"""Room in shared memory for what a step says beside hidden states and masks."""


class StageLost(BackendError):
    """The process of a stage has ended; the engine cannot go on without it."""

    code = "stage_lost"


@dataclass(frozen=True, slots=True)
class _Done:
    """The handle of a finished step."""

    result: Hidden | Sampled


class RemoteStage(Stage):
    """Computes in its process while the thread that submits waits; for one thread at a time."""

    def __init__(
        self,
        order: StageOrder,
        process: subprocess.Popen[bytes],
        exchange: Exchange,
        loaded: Loaded,
    ) -> None:
        self.spec = order.spec
        self.caps = replace(loaded.caps, async_depth=0)
        self.pid = process.pid
        self._order = order
        self._process = process
        self._exchange = exchange
        self._state_kind = loaded.state_kind
        self._is_closed = False

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        """Compute the step; the handle is finished. Raises StageLost as well."""
        result = self._ask(Compute(batch, x))
        if isinstance(result, np.ndarray):
            result = result.copy()  # the next step is written over it
        return _Done(result)

    def poll(self, handle: Handle) -> Hidden | Sampled | None:
        """What `submit` computed."""
        if not isinstance(handle, _Done):
            raise BackendError(f"not a handle of this stage: {handle!r}")
        return handle.result

    def export(self, placement: Placement, n_tokens: int) -> bytes:
        """See Stage."""
        return bytes(self._ask(Export(placement, n_tokens)))

    def restore(self, placement: Placement, blob: bytes, n_tokens: int | None = None) -> int:
        """See Stage."""
        return int(self._ask(Restore(placement, blob, n_tokens)))

    def load_adapter(self, adapter: int, path: Path, lease: Lease) -> None:
        """See Stage."""
        self._ask(LoadAdapter(adapter, path, lease))

    def idle(self) -> bool:
        """See Stage."""
        return bool(self._ask(Idle()))

    def state_kind(self) -> str:
        """See Stage."""
        if self._state_kind is None:
            raise Unsupported("this backend exports no states")
        return self._state_kind

    @property
    def peak_bytes(self) -> int | None:
        """See Stage."""
        peak: int | None = self._ask(AskPeak())
        return peak

    def close(self) -> None:
        """Let the process free the stage and end; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._exchange.close()
            _end(self._process)

    def _ask(self, command: Command) -> Any:
        """The answer to a command; raises the error that it is, or StageLost."""
        try:
            self._exchange.send(command)
            answer = self._exchange.receive()
        except PeerGone as gone:
            raise StageLost(_obituary(self._order, self._process, gone)) from gone
        return _value_of(answer)


def load_remote(order: StageOrder, progress: Callable[[float], None]) -> RemoteStage:
    """Start a process and load a stage in it; raises what `Backend.load` raises, and StageLost."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        with theirs:
            process = _spawn(theirs, order.cpus)
        stack.callback(_end, process)
        regions = Regions.create(_region_bytes(order))
        try:
            exchange = Exchange(ours, regions.down, regions.up, regions.n_bytes)
            loaded = _load(ours, exchange, regions, order, progress)
        except PeerGone as gone:
            raise StageLost(_obituary(order, process, gone)) from gone
        finally:
            regions.close()
        stack.pop_all()
        return RemoteStage(order, process, exchange, loaded)


def _load(
    connection: socket.socket,
    exchange: Exchange,
    regions: Regions,
    order: StageOrder,
    progress: Callable[[float], None],
) -> Loaded:
    pass_regions(connection, regions)
    exchange.send(order)
    while True:
        heard = exchange.receive()
        if not isinstance(heard, Progress):
            loaded: Loaded = _value_of(heard)
            return loaded
        progress(heard.fraction)


def _value_of(answer: Answer) -> Any:
    if answer.error is not None:
        raise answer.error
    return answer.value


def _region_bytes(order: StageOrder) -> int:
    """Hidden states and masks of the longest step; pages that nobody touches are not there."""
    row_bytes = 4 * order.model.d_model + order.model.n_vocab // 8 + 4
    return order.spec.n_rows * row_bytes + _OTHER_BYTES


def _spawn(theirs: socket.socket, cpus: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """In the engine's process group, so that who ends that ends this; raises Unsupported."""
    options = ["-P", "-X", "faulthandler", "-m", "hearthd.engine"]
    process = subprocess.Popen(
        [sys.executable, *options, "--stage", str(theirs.fileno())],
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
    )
    if cpus:
        try:
            os.sched_setaffinity(process.pid, cpus)  # before it has threads; they all inherit it
        except OSError as error:
            process.kill()
            process.wait()
            named = ", ".join(map(str, cpus))
            raise Unsupported(f"a stage cannot keep to processors {named}: {error}") from error
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """It ends by itself once its socket is closed."""
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _obituary(order: StageOrder, process: subprocess.Popen[bytes], gone: PeerGone) -> str:
    """Which stage was lost, and how."""
    layers = f"layers {order.spec.first} to {order.spec.last - 1} on {order.backend}"
    try:
        status = process.wait(1.0)
    except subprocess.TimeoutExpired:
        return f"the process {process.pid} of {layers} does not answer: {gone}"
    how = f"ended with exit status {status}"
    if status < 0:
        how = f"was ended by {signal.Signals(-status).name}"
    return f"the process {process.pid} of {layers} {how}"
