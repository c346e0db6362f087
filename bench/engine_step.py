#!/usr/bin/env python3
"""Step time of the engine against a bare llama_decode loop, both in this process, in turn.

One process is the fair place: the same build, the same OpenMP threads, the same pages of the same
file, and a disturbance hits neighbouring turns of both alike. Each side has its own context, made
with the same sizes, and starts each generation from the same prompts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import psutil

from hearth_bench.bare import BareLlama
from hearth_bench.prompts import random_ids
from hearth_bench.quiet import quiet_collector
from hearth_bench.stats import Spread, spread
from hearth_bench.stepping import BareStepper, EngineStepper, engine_load, take_turns

TARGETS = {1: 0.95, 8: 0.97}


@dataclass(frozen=True, slots=True)
class Row:
    """One setting; `ratio` is the bare step's time over the engine's, turn by turn."""

    n_requests: int
    temperature: float
    baseline: str  # "decode" | "decode and argmax"
    bare_ms: float
    engine_ms: float
    ratio: Spread
    pooled_ratio: float  # of the medians over all steps
    target: float | None


def main(argv: list[str] | None = None) -> int:
    """Measure and print; with --check, 1 when the ratio to the bare decode misses its target."""
    given = _parser().parse_args(argv)
    n_seq = max(given.requests)
    context = -(-(given.prompt_tokens + given.steps + 64) // 256) * 256
    engine = EngineStepper(
        engine_load(given.model, n_seq=n_seq, context=context, threads=given.threads)
    )
    rows: list[Row] = []
    try:
        with BareLlama(
            given.model,
            n_seq=n_seq,
            n_ctx=n_seq * context,
            threads=given.threads,
            unified=given.unified == "yes",
        ) as llama:
            for n_requests in given.requests:
                for temperature in given.temperatures:
                    engine.temperature = temperature
                    rows += _measure(engine, BareStepper(llama), n_requests, given)
    finally:
        engine.close()
    if given.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print(rows, given)
    missed = [r for r in rows if r.baseline == "decode" and r.ratio.median < (r.target or 0)]
    return 1 if given.check and missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file, as models.py writes it")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--steps", type=int, default=128, help="of one generation")
    parser.add_argument("--turn", type=int, default=8, help="steps before the other side's turn")
    parser.add_argument("--generations", type=int, default=4, help="for each baseline")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument(
        "--unified", choices=("yes", "no"), default="yes", help="key-value memory of the bare loop"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--json", action="store_true")
    return parser


def _measure(
    engine: EngineStepper, bare: BareStepper, n_requests: int, given: argparse.Namespace
) -> list[Row]:
    """Both baselines at one setting; every second generation the engine goes first."""
    rows = []
    rng = Random(n_requests)
    for greedy in (False, True):
        bare.greedy = greedy
        bare_turns: list[list[float]] = []
        engine_turns: list[list[float]] = []
        with quiet_collector():
            for generation in range(given.generations + 1):
                prompts = [
                    random_ids(rng, given.prompt_tokens, (33, 127)) for _ in range(n_requests)
                ]
                steps = given.turn if generation == 0 else given.steps  # the first one warms up
                if generation % 2:
                    b, e = take_turns(bare, engine, prompts, n_steps=steps, turn=given.turn)
                else:
                    e, b = take_turns(engine, bare, prompts, n_steps=steps, turn=given.turn)
                if generation:
                    bare_turns += b
                    engine_turns += e
        rows.append(_row(n_requests, engine.temperature, greedy, bare_turns, engine_turns))
    return rows


def _row(
    n_requests: int,
    temperature: float,
    greedy: bool,
    bare_turns: list[list[float]],
    engine_turns: list[list[float]],
) -> Row:
    found = spread(
        [
            statistics.median(b) / statistics.median(e)
            for b, e in zip(bare_turns, engine_turns, strict=True)
        ]
    )
    assert found is not None
    bare = statistics.median(seconds for turn in bare_turns for seconds in turn)
    engine = statistics.median(seconds for turn in engine_turns for seconds in turn)
    return Row(
        n_requests=n_requests,
        temperature=temperature,
        baseline="decode and argmax" if greedy else "decode",
        bare_ms=bare * 1000,
        engine_ms=engine * 1000,
        ratio=found,
        pooled_ratio=bare / engine,
        target=None if greedy else TARGETS.get(n_requests),
    )


def _print(rows: list[Row], given: argparse.Namespace) -> None:
    print(f"{given.model.name}, {given.threads} threads, {given.generations} x {given.steps} steps")
    print(
        f"{'requests':>8} {'temp':>5} {'baseline':<18}{'bare ms':>9}{'engine ms':>10}"
        f"   {'bare / engine (turns)':<24}{'pooled':>7}  target"
    )
    for row in rows:
        target = "" if row.target is None else f">= {row.target}"
        print(
            f"{row.n_requests:>8} {row.temperature:>5} {row.baseline:<18}{row.bare_ms:>9.3f}"
            f"{row.engine_ms:>10.3f}   {row.ratio!s:<24}{row.pooled_ratio:>7.3f}  {target}"
        )


if __name__ == "__main__":
    sys.exit(main())
