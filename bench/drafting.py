#!/usr/bin/env python3
"""Answers without guesses, with the text's own (prompt lookup), and with a draft model's, in turn, in one engine.

The target is the canary in a real shape (models.py --canary), the draft the plain canary: both say the
same, at very different cost. With --draft any other model of the same vocabulary, such as random weights,
whose guesses are all wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import psutil

from hearth_bench.guessing import LOOKUP, MODEL, PROMPTS, GuessingEngine, gain, guessing_load
from models import canary_path

LEAST = 0.97
"""Of the speed without guesses: what both ways must reach everywhere."""


def main(argv: list[str] | None = None) -> int:
    """Measure and print; with --check, 1 where guessing was slower than LEAST allows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file, as models.py --canary writes it")
    parser.add_argument("--draft", type=Path, default=canary_path(), help="default: the canary")
    parser.add_argument("--tasks", nargs="+", choices=PROMPTS, default=list(PROMPTS))
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--check", action="store_true", help=f"exit 1 below {LEAST}")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    load = guessing_load(given.model, given.draft, n_seq=max(given.requests), threads=given.threads)
    engine = GuessingEngine(load, given.temperature)
    rows = []
    try:
        engine.measure(given.tasks[0], 1, 1, seed=0)  # pages are touched
        for task in given.tasks:
            for n_requests in given.requests:
                found = engine.measure(task, n_requests, given.rounds, seed=n_requests)
                rows.append((task, n_requests, found))
    finally:
        engine.close()
    if given.json:
        print(json.dumps([[t, n, {w: asdict(m) for w, m in f.items()}] for t, n, f in rows]))
    missed = False
    for task, n_requests, found in rows:
        for way in (LOOKUP, MODEL):
            ratio, measured = gain(found, way), found[way]
            if ratio is None:
                continue
            missed = missed or ratio.median < LEAST
            if not given.json:
                same = sum(
                    a == b for a, b in zip(measured.texts, found["plain"].texts, strict=True)
                )
                stood = ", ".join(
                    f"{name} {measured.accepted[name]}/{n}"
                    for name, n in measured.guessed.items()
                    if n
                )
                print(
                    f"{task:>7} x{n_requests:<3} {way:>7}: {ratio!s:<24} stood: {stood or '-':<34} "
                    f"same text: {same}/{len(measured.texts)}"
                )
    return 1 if given.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
