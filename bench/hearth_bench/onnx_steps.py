"""One stage on ONNX Runtime, driven step by step as the engine drives it: prompts, decoding, and the bare run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hearth_backends.base import Batch, Bytes, Lease, SamplingBatch, SamplingParams, StageSpec
from hearth_backends.kv.contract import KVOp, OpKind, Placement
from hearth_backends.onnx.backend import OnnxBackend
from hearth_backends.onnx.stage import OnnxStage

GREEDY = SamplingParams(temperature=0.0)
LONGEST_CHUNK = 512
"""Rows of a prompt in one step."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a model is held: kinds of weights and of keys and values, as the configuration names them."""

    weights: str
    kv: str

    def __str__(self) -> str:
        return f"{self.weights}, {self.kv} KV"


class OnnxSteps:
    """A model opened whole, and sequences in it that grow from the same prompt."""

    def __init__(self, path: Path, kind: Kind, *, n_seq: int, n_ctx: int, threads: int) -> None:
        """Load it; raises BackendError."""
        from hearth_backends.gguf.vocab import open_gguf

        model = open_gguf(str(path)).spec
        backend = OnnxBackend()
        spec = StageSpec(
            first=0,
            last=model.n_layers,
            embed=True,
            head=True,
            n_seq=n_seq,
            n_ctx=n_ctx,
            n_rows=max(LONGEST_CHUNK, n_seq),
            kv_tokens=n_seq * n_ctx,
            kv_dtype=kind.kv,
            weight_kind=kind.weights,
            threads=threads,
        )
        device = next(device for device in backend.devices() if device.kind == "cpu")
        lease = Lease(0, device.name, Bytes(0, 0, 0))
        stage = backend.load(model, spec, (device,), (lease,), lambda _fraction: None)
        assert isinstance(stage, OnnxStage)
        self.stage = stage
        self.n_seq = n_seq
        self._random = np.random.default_rng(0)
        self._lengths = [0] * n_seq
        self._n_ids = min(model.n_vocab, 30_000)

    def close(self) -> None:
        """Free the model."""
        self.stage.close()

    def prefill(self, n_tokens: int) -> float:
        """Seconds for a prompt of random tokens in row 0, its first token sampled."""
        prompt = self._random.integers(0, self._n_ids, n_tokens).astype(np.int32)
        self._lengths[0] = 0
        ops: tuple[KVOp, ...] = (KVOp(OpKind.TRUNCATE, 0, 0, 0),)
        began = time.perf_counter()
        for start in range(0, n_tokens, LONGEST_CHUNK):
            part = prompt[start : start + LONGEST_CHUNK]
            is_last = start + len(part) == n_tokens
            self._step([(0, part, is_last)], ops, position=0)
            ops = ()
        return time.perf_counter() - began

    def spread(self, n_rows: int, n_tokens: int) -> None:
        """Have the first rows hold that many tokens of a prompt, which is computed where row 0 has fewer."""
        if self._lengths[0] < n_tokens:
            self.prefill(n_tokens)
        ops = [KVOp(OpKind.TRUNCATE, 0, 0, n_tokens)]
        ops += [KVOp(OpKind.FORK, 0, row, n_tokens) for row in range(1, n_rows)]
        self._step([], tuple(ops), position=0)
        self._lengths[:n_rows] = [n_tokens] * n_rows

    def decode(self, n_rows: int, n_steps: int) -> list[float]:
        """Seconds of each step of one token for each of the first rows, sampled greedily."""
        seconds = []
        for step in range(n_steps):
            tokens = self._random.integers(0, self._n_ids, n_rows).astype(np.int32)
            groups = [(row, tokens[row : row + 1], True) for row in range(n_rows)]
            began = time.perf_counter()
            self._step(groups, (), position=1 + step)
            seconds.append(time.perf_counter() - began)
        return seconds

    def _step(
        self,
        groups: Sequence[tuple[int, np.typing.NDArray[np.int32], bool]],
        ops: tuple[KVOp, ...],
        position: int,
    ) -> None:
        """One step: for each group its row, its tokens, and whether the last one is sampled."""
        batch = self.batch(groups, ops, position)
        self.stage.poll(self.stage.submit(batch, None))
        for row, tokens, _ in groups:
            self._lengths[row] += len(tokens)

    def batch(
        self,
        groups: Sequence[tuple[int, np.typing.NDArray[np.int32], bool]],
        ops: tuple[KVOp, ...],
        position: int,
    ) -> Batch:
        """See _step."""
        if not groups:
            nothing = np.empty(0, np.int32)
            return Batch(nothing, nothing, nothing, np.empty(0, np.bool_), ops, (), None)
        want = []
        for _, tokens, is_wanted in groups:
            want += [False] * (len(tokens) - 1) + [is_wanted]
        k = sum(want)
        sampling = SamplingBatch(
            params=(GREEDY,) * k,
            positions=np.full(k, position),
            targets=np.full(k, -1, np.int32),
            history=(None,) * k,
            n_prompt=(0,) * k,
            banned=((),) * k,
        )
        return Batch(
            tokens=np.concatenate([tokens for _, tokens, _ in groups]),
            seq=np.concatenate([np.full(len(t), row, np.int32) for row, t, _ in groups]),
            pos=np.concatenate(
                [np.arange(len(t), dtype=np.int32) + self._lengths[row] for row, t, _ in groups]
            ),
            want=np.array(want),
            ops=ops,
            placements=tuple(Placement(row) for row, _, _ in groups),
            sampling=sampling if k else None,
        )
