"""Stages of a backend, GGUF unless told, driven as a pipeline, one step at a time, with the whole distribution of each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
from hearth_backends.gguf.backend import GgufBackend
from hearth_backends.kv.contract import KVOp, OpKind, Placement

MakeGguf = Callable[..., Path]
Array = NDArray[np.float32]

BACKEND = GgufBackend()
CPU = BACKEND.devices()[0]


@dataclass
class Rows:
    """The next tokens of one row, and how many of them (the last ones) are wanted."""

    row: int
    tokens: Sequence[int]
    n_wanted: int = 1


def whole_spec(model: LoadedModel, **fields: object) -> StageSpec:
    """A small stage of the whole model in float32."""
    spec = StageSpec(
        first=0, last=model.spec.n_layers, embed=True, head=True, n_seq=6, n_ctx=256, n_rows=96,
        kv_tokens=512, kv_dtype="f32", weight_kind="file", threads=1,
    )  # fmt: skip
    return replace(spec, **fields)  # type: ignore[arg-type]


def cut_specs(model: LoadedModel, *cuts: int, **fields: object) -> list[StageSpec]:
    """Specs of stages that begin at 0 and at each cut."""
    edges = [0, *cuts, model.spec.n_layers]
    return [
        whole_spec(model, first=a, last=b, embed=a == 0, head=b == model.spec.n_layers, **fields)
        for a, b in pairwise(edges)
    ]


def load(
    model: LoadedModel, spec: StageSpec, device: DeviceInfo = CPU, backend: Backend = BACKEND
) -> Stage:
    lease = Lease(1, device.name, Bytes(0, 0, 0))
    return backend.load(model.spec, spec, (device,), (lease,), lambda _fraction: None)


class Runner:
    """Stages driven as a pipeline, remembering each row's length."""

    def __init__(
        self, model: LoadedModel, specs: Sequence[StageSpec], backend: Backend = BACKEND
    ) -> None:
        self.model = model
        self.lengths = [0] * (specs[0].n_seq if specs else 0)
        self._stack = ExitStack()
        self.stages = [
            self._stack.enter_context(closing(load(model, spec, CPU, backend))) for spec in specs
        ]

    def close(self) -> None:
        self._stack.close()

    def step(self, *groups: Rows, ops: tuple[KVOp, ...] = ()) -> Array:
        """Log-probabilities of the whole vocabulary for every wanted row [k, n_vocab]."""
        batch = self.batch(groups, ops)
        hidden: Array | None = None
        result: object = None
        for stage in self.stages:
            result = stage.poll(stage.submit(batch, hidden))
            hidden = result if isinstance(result, np.ndarray) else None
        assert isinstance(result, Sampled)
        for group in groups:
            self.lengths[group.row] += len(group.tokens)
        return distributions(result, self.model.spec.n_vocab)

    def operate(self, *ops: KVOp) -> None:
        self.step(ops=ops)
        for op in ops:
            self.lengths[op.dst] = op.n_tokens

    def batch(self, groups: Sequence[Rows], ops: tuple[KVOp, ...] = ()) -> Batch:
        tokens = [t for g in groups for t in g.tokens]
        want = [i >= len(g.tokens) - g.n_wanted for g in groups for i in range(len(g.tokens))]
        pos = [self.lengths[g.row] + i for g in groups for i in range(len(g.tokens))]
        seq = [g.row for g in groups for _ in g.tokens]
        return Batch(
            tokens=np.array(tokens, np.int32),
            seq=np.array(seq, np.int32),
            pos=np.array(pos, np.int32),
            want=np.array(want, np.bool_),
            ops=ops,
            placements=tuple(Placement(g.row) for g in groups),
            sampling=everything(sum(want), self.model.spec.n_vocab) if any(want) else None,
        )

    def greedy(self, row: int, prompt: Sequence[int], n: int) -> list[int]:
        """The continuation of a prompt in a row of its own."""
        best = int(self.step(Rows(row, prompt))[0].argmax())
        output = [best]
        while len(output) < n:
            best = int(self.step(Rows(row, [best]))[0].argmax())
            output.append(best)
        return output


def everything(k: int, n_vocab: int) -> SamplingBatch:
    """Greedy, and the log-probability of every token."""
    return SamplingBatch(
        params=(SamplingParams(temperature=0, n_logprobs=n_vocab),) * k,
        positions=np.zeros(k, np.int64),
        targets=np.full(k, -1, np.int32),
        history=(None,) * k,
        n_prompt=(0,) * k,
        banned=((),) * k,
    )


def distributions(sampled: Sampled, n_vocab: int) -> Array:
    rows = np.empty((len(sampled.tokens), n_vocab), np.float32)
    for i, top in enumerate(sampled.top):
        assert top is not None
        rows[i, top.tokens] = top.logprobs
        assert rows[i].argmax() == sampled.tokens[i]
    return rows


def fork(src: int, dst: int, n: int) -> KVOp:
    return KVOp(OpKind.FORK, src, dst, n)


def truncate(row: int, n: int) -> KVOp:
    return KVOp(OpKind.TRUNCATE, row, row, n)


def noise(n: int, seed: int, n_vocab: int = 256) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(3, n_vocab, n).tolist()
    return tokens
