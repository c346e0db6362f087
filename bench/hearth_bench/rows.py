"""Rows: what hearthd is held against, each with its work, its size and its goals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hearth_bench.rounds import Comparison
from hearth_bench.work import Work


@dataclass(frozen=True, slots=True)
class Goal:
    """Bounds of the median ratio of one figure."""

    figure: str
    low: float | None = None
    high: float | None = None

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is within the bounds."""
        return (self.low is None or ratio >= self.low) and (self.high is None or ratio <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f">= {self.low}"
        return f"<= {self.high}" if self.low is None else f"{self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; A is over B in its ratios."""

    title: str
    kind: Literal["servers", "intrusion", "interactive", "shares"]
    n_clients: int
    goals: tuple[Goal, ...]
    work: Work
    model: Literal["random", "canary"] = "random"  # weights of a real shape
    context: int = 8192
    intruder_tokens: int = 0  # kind "intrusion"
    n_rounds: int = 3


def _requests(concurrency: int, n_waves: int, prompt_tokens: int = 128) -> Work:
    return Work(
        concurrency=concurrency,
        n_requests=concurrency * n_waves,
        prompt_tokens=prompt_tokens,
        output_tokens=128,
    )


CANARY_CONTEXT = 2048
"""What the canary was trained for, in whatever shape."""

ROWS: dict[str, Row] = {
    "one": Row(
        "1 request, 128 in, 128 out", "servers", 1,
        (Goal("output tok/s", low=0.98),),
        _requests(1, 8), n_rounds=5,
    ),
    "eight": Row(
        "8 at once, 128 in, 128 out", "servers", 8,
        (Goal("output tok/s", low=1.0), Goal("TTFT p95", high=1.0)),
        _requests(8, 3),
    ),
    "shared-prefix": Row(
        "16 at once with a shared prefix of 1000 tokens", "servers", 16,
        (Goal("output tok/s", low=1.15), Goal("TTFT p50", high=0.7)),
        Work(concurrency=16, n_requests=32, prompt_tokens=1128, output_tokens=128, shared_tokens=1000),
        n_rounds=2,
    ),
    "chats": Row(
        "8 chats of 6 turns in turn", "servers", 8,
        (Goal("TTFT p50", high=1.0),),
        Work(
            n_chats=8, turns=6, n_requests=48, chat=True, tokenizer="auto",
            prompt_tokens=128, output_tokens=32,
        ),
        model="canary", context=CANARY_CONTEXT,
    ),
    "copying": Row(
        "1 request, a text to repeat", "servers", 1,
        (Goal("output tok/s", low=1.5),),
        Work(
            n_requests=12, chat=True, tokenizer="auto", order="Repeat:",
            prompt_tokens=140, output_tokens=200, plain=True, n_warmup=2,
        ),
        model="canary", context=CANARY_CONTEXT, n_rounds=4,
    ),
    "intrusion": Row(
        "a prompt of 4096 tokens arrives among 7 streams", "intrusion", 8,
        (Goal("gap p95", high=0.5),),
        Work(concurrency=7, prompt_tokens=64, output_tokens=4000),
        intruder_tokens=4096,
    ),
    "interactive": Row(
        "interactive requests (128 in, 16 out) with batch at full load (A) and without (B)",
        "interactive", 8,
        (Goal("TTFT p95", high=1.2),),
        Work(n_requests=32, prompt_tokens=128, output_tokens=16, pause_seconds=0.3),
    ),
    "shares": Row(
        "two keys at full load, weights 3 (A) and 1 (B)", "shares", 8,
        (Goal("total tok/s", low=2.7, high=3.3),),
        Work(concurrency=16, seconds=60.0, prompt_tokens=32, output_tokens=32, n_warmup=0),
        n_rounds=2,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal and what came out."""

    goal: Goal
    ratio: float | None  # None: the figure was not seen

    @property
    def is_met(self) -> bool:
        """Whether it is; what was not seen is not."""
        return self.ratio is not None and self.goal.is_met(self.ratio)

    def __str__(self) -> str:
        ratio = "-" if self.ratio is None else f"{self.ratio:.3f}"
        return (
            f"{'met' if self.is_met else 'MISSED'}: {self.goal.figure} {ratio}, wanted {self.goal}"
        )


def judge(row: Row, comparison: Comparison) -> list[Verdict]:
    """Each goal of a row against the median over the rounds."""
    medians = {
        figure.name: None if figure.ratio is None else figure.ratio.median
        for figure in comparison.figures
    }
    return [Verdict(goal, medians.get(goal.figure)) for goal in row.goals]
