"""Bench: a whole model on one device with one backend, driven step by step without an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import numpy as np

from hearth_backends import registry
from hearth_backends.base import (
    Backend,
    Batch,
    Bytes,
    DeviceInfo,
    Lease,
    LoadedModel,
    Sampled,
    SamplingBatch,
    SamplingParams,
    Stage,
    StageSpec,
)
from hearth_backends.errors import BackendError, Unsupported
from hearth_backends.kv.contract import BLOCK_TOKENS, KVOp, OpKind, Placement


@dataclass(frozen=True, slots=True)
class Rows:
    """Next tokens of one row of key-value memory, which is cleared first where `fresh`."""

    row: int
    tokens: Sequence[int]
    start: int = 0  # tokens it holds already
    wants_all: bool = False  # a distribution after each token, not after the last only
    fresh: bool = False
    decoded: bool = False  # tokens of an output, not of a prompt


class Bench:
    """Made with `opened`."""

    def __init__(self, stage: Stage, model: LoadedModel, device: DeviceInfo, need: Bytes) -> None:
        self.model = model
        self.device = device
        self.need = need  # as estimated
        self._stage = stage

    def step(self, *rows: Rows, n_best: int = 1) -> Sampled:
        """Compute one step; for each wanted row the best token and the `n_best` log-probabilities."""
        want = [r.wants_all or i == len(r.tokens) - 1 for r in rows for i in range(len(r.tokens))]
        positions = [
            int(r.decoded)
            for r in rows
            for i in range(len(r.tokens))
            if r.wants_all or i == len(r.tokens) - 1
        ]
        batch = Batch(
            tokens=np.array([t for r in rows for t in r.tokens], np.int32),
            seq=np.array([r.row for r in rows for _ in r.tokens], np.int32),
            pos=np.array([r.start + i for r in rows for i in range(len(r.tokens))], np.int32),
            want=np.array(want, np.bool_),
            ops=tuple(KVOp(OpKind.TRUNCATE, r.row, r.row, 0) for r in rows if r.fresh),
            placements=tuple(self._place(r.row) for r in rows),
            sampling=_greedy(positions, n_best),
        )
        handle = self._stage.submit(batch, None)
        while (result := self._stage.poll(handle)) is None:
            pass
        if not isinstance(result, Sampled):
            raise BackendError("a stage with a head gave no tokens")
        return result

    def _place(self, row: int) -> Placement:
        """A row with as many blocks as its context has, for stages that page; block 0 is nobody's."""
        n = self._stage.spec.n_ctx // BLOCK_TOKENS
        return Placement(row, tuple(range(1 + row * n, 1 + (row + 1) * n)))


@contextmanager
def opened(
    backend_name: str,
    device_name: str,
    path: str,
    *,
    threads: int,
    n_seq: int = 1,
    n_rows: int = 512,
    n_ctx: int = 1024,
    kv_dtype: str = "f32",
    weight_kind: str = "file",
) -> Iterator[Bench]:
    """Load the whole of a model; raises Unsupported with the reason, and what `Backend.load` raises."""
    backend = registry.backend(backend_name)
    device = find_device(backend, device_name)
    model = registry.open_model(path)
    support = backend.supports(model.spec, device)
    if not support.ok:
        raise Unsupported(support.reason)
    spec = StageSpec(
        first=0,
        last=model.spec.n_layers,
        embed=True,
        head=True,
        n_seq=n_seq,
        n_ctx=n_ctx,
        n_rows=n_rows,
        kv_tokens=n_seq * n_ctx,
        kv_dtype=kv_dtype,
        weight_kind=weight_kind,
        threads=threads,
    )
    need = backend.estimate(model.spec, spec, device)
    lease = Lease(0, device.name, need)
    stage = backend.load(model.spec, spec, (device,), (lease,), lambda _fraction: None)
    with closing(stage):
        yield Bench(stage, model, device, need)


def find_device(backend: Backend, name: str) -> DeviceInfo:
    """The backend's device of that name; raises Unsupported."""
    for device in backend.devices():
        if device.name == name:
            return device
    raise Unsupported(f"backend {backend.name} has no device {name!r}")


def _greedy(positions: Sequence[int], n_best: int) -> SamplingBatch:
    n = len(positions)
    return SamplingBatch(
        params=(SamplingParams(temperature=0, n_logprobs=n_best),) * n,
        positions=np.array(positions, np.int64),
        targets=np.full(n, -1, np.int32),
        history=(None,) * n,
        n_prompt=(0,) * n,
        banned=((),) * n,
    )
