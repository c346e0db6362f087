#!/usr/bin/env python3
"""The ONNX Runtime engine on a processor against llama-batched-bench: prompts and decoding, in turn, in one run.

(Serving is a row of table.py, and what the engine adds to a bare run is onnx_overhead.py.)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path

import psutil

from hearth_bench.endpoint import EndpointError
from hearth_bench.onnx_steps import Kind, OnnxSteps
from hearth_bench.onnx_table import CONTEXT, N_STEPS, Work, as_text, llama, run_table


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 when --check and a kind misses what it is held to, 2 without llama.cpp."""
    given = _parser().parse_args(argv)
    works = [Work("prefill", n) for n in given.prefill] + [Work("decode", n) for n in given.decode]
    rivals = {
        name: llama(given.llama_batched_bench, path, works, given.threads)
        for name, path in (("Q4_0", given.model), ("Q8_0", given.model_q8))
        if path is not None
    }
    n_ctx = max([CONTEXT + N_STEPS, *given.prefill]) + 32
    n_seq = max([1, *given.decode])
    with ExitStack() as stack:
        sides = {
            kind: stack.enter_context(
                closing(
                    OnnxSteps(given.model, kind, n_seq=n_seq, n_ctx=n_ctx, threads=given.threads)
                )
            )
            for kind in given.kinds
        }
        try:
            cells = run_table(sides, rivals, works, given.rounds)
        except (EndpointError, OSError) as error:
            print(f"onnx_table.py: {error}", file=sys.stderr)
            return 2
    print(json.dumps([asdict(cell) for cell in cells], indent=2) if given.json else as_text(cells))
    missed = any(cell.goal is not None and cell.ratio.median < cell.goal for cell in cells)
    return 1 if given.check and missed else 0


def _kind(text: str) -> Kind:
    weights, _, kv = text.partition("/")
    return Kind(weights, kv or "f32")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a Q4_0 file, as models.py writes it")
    parser.add_argument("--model-q8", type=Path, help="the same model as Q8_0")
    parser.add_argument(
        "--kinds", type=_kind, nargs="+", metavar="WEIGHTS/KV",
        default=[Kind("int8", "f32"), Kind("int4-32", "f32"), Kind("int4-128", "f32")],
    )  # fmt: skip
    parser.add_argument("--prefill", type=_numbers, default=[256, 1024], metavar="N,…")
    parser.add_argument("--decode", type=_numbers, default=[1, 8, 16, 32], metavar="N,…")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument(
        "--llama-batched-bench",
        default=os.environ.get("LLAMA_BATCHED_BENCH", "llama-batched-bench"),
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a kind misses its goal")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
