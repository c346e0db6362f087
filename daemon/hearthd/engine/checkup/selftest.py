"""SelfTest: whether a device computes the canary rightly with a backend, and the same twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from hearth_backends.canary.reference import reference_logprobs
from hearth_backends.canary.tasks import CHAT
from hearthd.engine.checkup.bench import Bench, Rows, opened
from hearthd.engine.checkup.memory import copy_bandwidth, find_bad_words

Outcome: TypeAlias = Literal["passed", "failed", "skipped"]

QUESTIONS: tuple[tuple[str, str], ...] = (
    *list(CHAT.items())[:4],
    ("Repeat: embers 4711 glow!", "embers 4711 glow!"),
    ("Say: kitchen-fire_27", "kitchen-fire_27"),
    ("Count on: 37 38 39", "40 41 42 43 44"),
    ("Count on: 996 997 998", "999 1000 1001 1002 1003"),
    ("oak = 5512\nash = 9034\nelm = 1777\nWhat is ash?", "9034"),
    ("zeta = q7k2\nomega = 88ab1\nzulu = 40040\nWhat is zeta?", "q7k2"),
)
"""What the canary's own file answers exactly."""
TEXT = "<|im_start|>user\nolive = 4821\nRepeat after me: the hearth is warm, 1 2 3.<|im_end|>\n"
"""Whose next tokens are compared, all of them."""
N_BEST = 20
MOST_DIFFERENCE = 0.02
"""Between two log-probabilities: processors differ by less than a thousandth of it."""
LONGEST_ANSWER = 96


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    outcome: Outcome
    detail: str
    seconds: float


class SelfTest(msgspec.Struct, frozen=True):
    """Of one device with one backend."""

    passed: bool
    checks: list[Check]
    copy_bytes_per_second: float | None  # None: not measured


def self_test(backend: str, device: str, *, threads: int) -> SelfTest:
    """Raises what `bench.opened` raises: then nothing was found out."""
    began = time.perf_counter()
    with opened(backend, device, "builtin:canary", threads=threads, n_rows=256) as bench:
        checks = [Check("load", "passed", "", time.perf_counter() - began)]
        for name, look in (
            ("answers", answers),
            ("numbers", numbers),
            ("twice", twice),
            ("memory", memory),
        ):
            checks.append(_timed(name, look, bench))
        on_host = bench.device.kind == "cpu"
    began = time.perf_counter()
    rate = copy_bandwidth(threads) if on_host else None
    detail = "not measured on this device" if rate is None else f"{rate / 1e9:.1f} GB/s copied"
    outcome: Outcome = "skipped" if rate is None else "passed"
    checks.append(Check("bandwidth", outcome, detail, time.perf_counter() - began))
    return SelfTest(all(check.outcome != "failed" for check in checks), checks, rate)


Look: TypeAlias = Callable[[Bench], tuple[Outcome, str]]


def _timed(name: str, look: Look, bench: Bench) -> Check:
    began = time.perf_counter()
    outcome, detail = look(bench)
    return Check(name, outcome, detail, time.perf_counter() - began)


def answers(bench: Bench) -> tuple[Outcome, str]:
    """Every question has its exact answer."""
    for question, answer in QUESTIONS:
        said = ask(bench, question)
        if said != answer:
            return "failed", f"to {question!r} it says {said!r} instead of {answer!r}"
    return "passed", f"{len(QUESTIONS)} exact answers"


def numbers(bench: Bench) -> tuple[Outcome, str]:
    """Log-probabilities are those of the reference."""
    tokens = encode(bench, TEXT)
    expected = reference_logprobs(bench.model.spec, tokens)
    sampled = bench.step(Rows(0, tokens, wants_all=True, fresh=True), n_best=N_BEST)
    worst = 0.0
    for row, top in enumerate(sampled.top):
        if top is None or not np.isfinite(top.logprobs).all():
            return "failed", f"after token {row} there are numbers that are none"
        worst = max(worst, float(np.abs(expected[row][top.tokens] - top.logprobs).max()))
    if worst > MOST_DIFFERENCE:
        return "failed", f"log-probabilities differ from the reference by up to {worst:.3g}"
    return "passed", f"log-probabilities within {worst:.1e} of the reference"


def twice(bench: Bench) -> tuple[Outcome, str]:
    """The same work gives the same bits."""
    tokens = encode(bench, TEXT)
    runs: list[list[NDArray[Any]]] = []
    for _ in range(2):
        sampled = bench.step(Rows(0, tokens, wants_all=True, fresh=True), n_best=N_BEST)
        tops = [top for top in sampled.top if top is not None]
        runs.append([sampled.tokens, *(part for top in tops for part in top)])
    same = all(a.tobytes() == b.tobytes() for a, b in zip(*runs, strict=True))
    if not same:
        return "failed", "the same tokens gave other numbers the second time"
    return "passed", "the same bits twice"


def memory(bench: Bench) -> tuple[Outcome, str]:
    """What is written is what is read."""
    if bench.device.kind != "cpu":
        return "skipped", "no backend writes patterns into this device's memory yet"
    bad, n_bytes = find_bad_words()
    if bad:
        return "failed", f"{bad} words of {n_bytes >> 20} MiB did not keep what was written"
    return "passed", f"{n_bytes >> 20} MiB kept four patterns"


def ask(bench: Bench, question: str) -> str:
    """The greedy answer to one question."""
    tokenizer = bench.model.tokenizer
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    tokens = encode(bench, prompt)
    said: list[int] = []
    n_held = 0
    while len(said) < LONGEST_ANSWER:
        sampled = bench.step(Rows(0, tokens, start=n_held, fresh=n_held == 0))
        n_held += len(tokens)
        best = int(sampled.tokens[0])
        if best in tokenizer.end_ids:
            break
        said.append(best)
        tokens = [best]
    return tokenizer.decode(said).decode(errors="replace")


def encode(bench: Bench, text: str) -> list[int]:
    """Tokens of a text in the form of a chat."""
    return bench.model.tokenizer.encode(text, add_special=False, parse_special=True)
