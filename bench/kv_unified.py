#!/usr/bin/env python3
"""One pool of cells or one for each sequence: steps of llama.cpp either way, in turns, as ratios."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hearth_backends.errors import BackendError
from hearth_backends.gguf.context import BatchBuffers, Context, ContextOptions
from hearth_backends.gguf.llama import Model


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to keep key-value memory, and which sequences of it are used."""

    changes: dict[str, Any]
    stride: int = 1  # 2: every other sequence
    idle: bool = False  # other sequences hold tokens that nobody asks for


KINDS = {
    "one pool": Kind({}),
    "one pool, idle prefixes": Kind({}, idle=True),
    "a pool each": Kind({"kv_unified": False}),
    "a pool each, idle prefixes": Kind({"kv_unified": False}, idle=True),
    "a pool each, with gaps": Kind({"kv_unified": False}, stride=2),
    "one pool, no flash attention": Kind({"flash_attention": False}),
}


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured: sequences of `n_prompt` tokens, then steps of one row each, then mixed ones."""

    n_seq: int
    n_prompt: int
    n_chunk: int
    n_steps: int
    n_idle: int


class Arm:
    """One context, kept at the same lengths from round to round."""

    def __init__(self, model: Model, options: ContextOptions, work: Work, kind: Kind) -> None:
        self.work = work
        self.context = Context(model, replace(options, **kind.changes))
        self.buffers = BatchBuffers(options.n_rows, None)
        self.rows = range(0, work.n_seq * kind.stride, kind.stride)
        for row in range(work.n_seq, work.n_seq + (work.n_idle if kind.idle else 0)):
            self._prefill(row)  # first, so that they hold the low cells
        for row in self.rows:
            self._prefill(row)

    def decode_seconds(self) -> list[float]:
        """Steps of one row of every sequence."""
        taken = [
            self._decode(list(self.rows), [self.work.n_prompt + step] * len(self.rows))
            for step in range(self.work.n_steps)
        ]
        self._reset()
        return taken

    def mixed_seconds(self) -> list[float]:
        """Steps of one row of every sequence but the last, which begins anew with a chunk of prompt."""
        *others, last = self.rows
        n_chunk = self.work.n_chunk
        taken = []
        for step in range(max(1, self.work.n_steps // 8)):
            self.context.truncate(last, 0)
            seq = [*others, *[last] * n_chunk]
            pos = [*[self.work.n_prompt + step] * len(others), *range(n_chunk)]
            taken.append(self._decode(seq, pos))
        self.context.truncate(last, 0)
        self._prefill(last)
        self._reset()
        return taken

    def _reset(self) -> None:
        for row in self.rows:
            self.context.truncate(row, self.work.n_prompt)

    def _prefill(self, row: int) -> None:
        self._decode([row] * self.work.n_prompt, list(range(self.work.n_prompt)))

    def _decode(self, seq: list[int], pos: list[int]) -> float:
        n = len(seq)
        self.buffers.seq[:n] = seq
        self.buffers.pos[:n] = pos
        self.buffers.tokens[:n] = 5 + np.arange(n) % 200
        self.buffers.outputs[:n] = np.diff(seq, append=-1) != 0
        began = time.perf_counter()
        code = self.context.decode(self.buffers, n)
        self.context.logits(len(set(seq)))
        taken = time.perf_counter() - began
        if code:
            raise BackendError(f"llama_decode returned {code}")
        return taken


def main(argv: list[str] | None = None) -> int:
    """Print the median step of each arm and its ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF; bench/models.py writes some")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--idle", type=int, default=8, help="sequences with idle prefixes")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)
    work = Work(given.requests, given.prompt, given.chunk, given.steps, given.idle)
    n_seq = given.requests + max(given.requests, given.idle)
    options = ContextOptions(
        n_cells=n_seq * -(-(given.prompt + given.steps + 1) // 256) * 256,
        n_rows=max(given.prompt, given.chunk + given.requests),
        n_seq=n_seq,
        n_outputs=n_seq,
        kv_dtype="f16",
        threads=given.threads,
        flash_attention=True,
    )
    model = Model(str(given.model))
    arms = {name: Arm(model, options, work, kind) for name, kind in KINDS.items()}
    decode: dict[str, list[float]] = {name: [] for name in arms}
    mixed: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(given.rounds):
        for name, arm in arms.items():
            decode[name] += arm.decode_seconds()
            mixed[name] += arm.mixed_seconds()
    report("decode", decode)
    report(f"decode beside a chunk of {given.chunk}", mixed)
    return 0


def report(what: str, seconds: dict[str, list[float]]) -> None:
    """Median and quickest tenth, and the medians' ratio to the first arm's."""
    first = statistics.median(next(iter(seconds.values())))
    for name, taken in seconds.items():
        median = statistics.median(taken)
        quick = statistics.quantiles(taken, n=10)[0]
        print(
            f"{what:28} {name:30} median {median * 1e3:7.2f} ms, quickest tenth {quick * 1e3:7.2f} ms, "
            f"ratio {median / first:.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
