"""The ONNX Runtime engine's table: its rows, what they are held to, and rounds in turn with llama.cpp."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hearth_bench.batched import BatchedTimes, batched_command, run_batched
from hearth_bench.onnx_steps import Kind, OnnxSteps
from hearth_bench.quiet import quiet_collector
from hearth_bench.stats import Spread, ratios, spread

CONTEXT = 256
"""Tokens that every sequence holds before it decodes."""
N_STEPS = 32
"""Tokens that every sequence decodes."""


class Work(NamedTuple):
    """A prompt of `n` tokens, or a step of `n` sequences."""

    phase: str  # "prefill" | "decode"
    n: int

    def __str__(self) -> str:
        return f"{self.phase} {self.n}" if self.phase == "prefill" else f"decode, batch {self.n}"


GOALS: Mapping[tuple[Work, str, str], float] = {
    (Work("prefill", 256), "int8", "Q4_0"): 2.0,
    (Work("prefill", 1024), "int8", "Q4_0"): 2.0,
    (Work("prefill", 256), "int8", "Q8_0"): 3.3,
    (Work("prefill", 1024), "int8", "Q8_0"): 3.3,
    (Work("decode", 1), "int4-128", "Q4_0"): 1.6,
    (Work("decode", 1), "int4-32", "Q4_0"): 1.35,
    (Work("decode", 8), "int4-128", "Q4_0"): 1.5,
    (Work("decode", 8), "int4-32", "Q4_0"): 1.25,
    (Work("decode", 16), "", "Q4_0"): 1.5,
    (Work("decode", 32), "", "Q4_0"): 1.8,
}
"""By work, kind of weights in that phase ("": the best one), and the type of llama.cpp's file."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind at one work, against one file of llama.cpp."""

    work: Work
    kind: Kind
    against: str  # "Q4_0"
    ours_ms: Spread
    theirs_ms: Spread
    ratio: Spread  # theirs over ours, round by round

    @property
    def goal(self) -> float | None:
        """What its own kind is held to; None where only the best kind is, or nothing."""
        parts = self.kind.weights.split("+")
        weights = parts[0] if self.work.phase == "prefill" else parts[-1]
        return GOALS.get((self.work, weights, self.against))


Times = dict[Work, float]
"""Seconds by work."""


def our_times(steps: OnnxSteps, works: Sequence[Work]) -> Times:
    """One turn of a stage."""
    found: Times = {}
    with quiet_collector():
        for work in works:
            if work.phase == "prefill":
                found[work] = steps.prefill(work.n)
            else:
                steps.spread(work.n, CONTEXT)
                found[work] = statistics.fmean(steps.decode(work.n, N_STEPS))
    return found


def their_commands(
    program: str, model: Path, works: Sequence[Work], threads: int
) -> Iterator[list[str]]:
    """What has llama.cpp do the same works: prompts longer than CONTEXT in a run of their own."""
    seqs = sorted({work.n for work in works if work.phase == "decode"})
    longer = sorted({work.n for work in works if work.phase == "prefill"} - {CONTEXT})
    if seqs or len(longer) < len([work for work in works if work.phase == "prefill"]):
        yield batched_command(
            program, model, [CONTEXT], N_STEPS if seqs else 1, seqs or [1], threads
        )
    if longer:
        yield batched_command(program, model, longer, 1, [1], threads)


def their_times(lines: Sequence[BatchedTimes], works: Sequence[Work]) -> Times:
    """The works' times among those that llama-batched-bench told."""
    found: Times = {}
    for work in works:
        for line in lines:
            if work.phase == "prefill" and line.n_prompt == work.n:
                found.setdefault(work, line.prompt_seconds)
            elif work.phase == "decode" and line.n_seq == work.n and line.n_prompt == CONTEXT:
                assert line.step_seconds is not None  # steps were asked for
                found.setdefault(work, line.step_seconds)
    return found


def run_table(
    sides: Mapping[Kind, OnnxSteps],
    rivals: Mapping[str, Callable[[], Times]],
    works: Sequence[Work],
    n_rounds: int,
) -> list[Cell]:
    """Every kind and every file in turn, round by round; a first turn of ours is not counted."""
    ours: dict[Kind, list[Times]] = {kind: [] for kind in sides}
    theirs: dict[str, list[Times]] = {name: [] for name in rivals}
    for steps in sides.values():
        our_times(steps, works)
    for _ in range(n_rounds):
        for kind, steps in sides.items():
            ours[kind].append(our_times(steps, works))
        for name, measure in rivals.items():
            theirs[name].append(measure())
    return [
        _cell(work, kind, name, ours[kind], theirs[name])
        for work in works
        for name in rivals
        for kind in sides
    ]


def llama(program: str, model: Path, works: Sequence[Work], threads: int) -> Callable[[], Times]:
    """What measures a file with llama-batched-bench, a fresh process each time."""
    commands = list(their_commands(program, model, works, threads))

    def measure() -> Times:
        return their_times([line for c in commands for line in run_batched(c)], works)

    return measure


def _cell(
    work: Work, kind: Kind, against: str, ours: Sequence[Times], theirs: Sequence[Times]
) -> Cell:
    a, b = ([times[work] for times in side] for side in (ours, theirs))
    ours_ms, theirs_ms = (spread([1000 * seconds for seconds in side]) for side in (a, b))
    ratio = spread(ratios(b, a))
    assert ours_ms is not None  # there is a round
    assert theirs_ms is not None
    assert ratio is not None
    return Cell(work, kind, against, ours_ms, theirs_ms, ratio)


def as_text(cells: Sequence[Cell]) -> str:
    """A table in Markdown; rows that only the best kind is held to come last."""
    lines = [
        "| work | weights, KV | against | ours, ms | theirs, ms | ratio | wanted | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(cell, cell.goal) for cell in cells]
    for (work, kind, against), goal in GOALS.items():
        held = [cell for cell in cells if (cell.work, cell.against) == (work, against)]
        if not kind and held:
            lines.append(_line(max(held, key=lambda cell: cell.ratio.median), goal, "best: "))
    return "\n".join(lines)


def _line(cell: Cell, goal: float | None, prefix: str = "") -> str:
    wanted = "" if goal is None else f"≥ {goal}"
    verdict = "" if goal is None else "met" if cell.ratio.median >= goal else "**missed**"
    return (
        f"| {prefix}{cell.work} | {cell.kind} | {cell.against} | {cell.ours_ms.median:.1f}"
        f" | {cell.theirs_ms.median:.1f} | {cell.ratio} | {wanted} | {verdict} |"
    )
