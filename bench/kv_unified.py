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

ARMS: dict[str, dict[str, Any]] = {
    "one pool": {},
    "a pool each": {"kv_unified": False},
    "one pool, no flash attention": {"flash_attention": False},
}


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured: sequences of `n_prompt` tokens, then steps of one row each, then mixed ones."""

    n_seq: int
    n_prompt: int
    n_chunk: int
    n_steps: int


class Arm:
    """One context, kept at the same lengths from round to round."""

    def __init__(self, model: Model, options: ContextOptions, work: Work) -> None:
        self.work = work
        self.context = Context(model, options)
        self.buffers = BatchBuffers(options.n_rows, None)
        for seq in range(work.n_seq):
            self._decode([seq] * work.n_prompt, list(range(work.n_prompt)))

    def decode_seconds(self) -> list[float]:
        """Steps of one row of every sequence."""
        n = self.work.n_seq
        taken = [
            self._decode(list(range(n)), [self.work.n_prompt + step] * n)
            for step in range(self.work.n_steps)
        ]
        self._reset()
        return taken

    def mixed_seconds(self) -> list[float]:
        """Steps of one row of every sequence but the last, which begins anew with a chunk of prompt."""
        n, n_chunk = self.work.n_seq - 1, self.work.n_chunk
        taken = []
        for step in range(max(1, self.work.n_steps // 8)):
            self.context.truncate(n, 0)
            seq = [*range(n), *[n] * n_chunk]
            pos = [*[self.work.n_prompt + step] * n, *range(n_chunk)]
            taken.append(self._decode(seq, pos))
        self.context.truncate(n, 0)
        self._decode([n] * self.work.n_prompt, list(range(self.work.n_prompt)))
        self._reset()
        return taken

    def _reset(self) -> None:
        for seq in range(self.work.n_seq):
            self.context.truncate(seq, self.work.n_prompt)

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
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)
    work = Work(given.requests, given.prompt, given.chunk, given.steps)
    options = ContextOptions(
        n_cells=given.requests * 512,
        n_rows=max(given.prompt, given.chunk + given.requests),
        n_seq=given.requests,
        n_outputs=given.requests,
        kv_dtype="f16",
        threads=given.threads,
        flash_attention=True,
    )
    model = Model(str(given.model))
    arms = {name: Arm(model, replace(options, **changes), work) for name, changes in ARMS.items()}
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
