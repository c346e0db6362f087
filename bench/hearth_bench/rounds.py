"""Rounds: the same load on two servers in turn, and the ratios of what came out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from hearth_bench.report import Report
from hearth_bench.stats import Spread, ratios, spread
from hearth_bench.work import Work

Measure = Callable[[Work], Awaitable[Report]]
_HIGHER_IS_BETTER = ("output tok/s", "total tok/s", "requests/s")


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure over all rounds: a, b, and a over b."""

    name: str
    higher_is_better: bool
    a: Spread | None
    b: Spread | None
    ratio: Spread | None  # of each round, not of the medians


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the rounds gave; `reports` holds a's and b's of each."""

    figures: list[Compared]
    reports: list[tuple[Report, Report]]

    @property
    def n_failed(self) -> int:
        """Requests that failed on either side."""
        return sum(a.n_failed + b.n_failed for a, b in self.reports)

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "figures": [asdict(figure) for figure in self.figures],
            "rounds": [{"a": a.as_json(), "b": b.as_json()} for a, b in self.reports],
        }


async def run_rounds(
    measure_a: Measure, measure_b: Measure, work: Work, n_rounds: int
) -> Comparison:
    """A B A B …: both get the same prompts in a round, and each round has its own.

    (With the same prompts again, the second round would measure the servers' prefix caches.)
    """
    reports: list[tuple[Report, Report]] = []
    for i in range(n_rounds):
        round_work = replace(work, seed=work.seed + i)
        reports.append((await measure_a(round_work), await measure_b(round_work)))
    return compare(reports)


def compare(reports: list[tuple[Report, Report]]) -> Comparison:
    """Ratios per figure and round, and their spread."""
    sides = [[report.metrics() for report in side] for side in zip(*reports, strict=True)]
    figures = []
    for name in sides[0][0]:
        a, b = ([metrics[name] for metrics in side] for side in sides)
        figures.append(
            Compared(
                name,
                name in _HIGHER_IS_BETTER,
                spread([value for value in a if value is not None]),
                spread([value for value in b if value is not None]),
                spread(ratios(a, b)),
            )
        )
    return Comparison(figures, reports)


def as_text(comparison: Comparison) -> str:
    """A table for people; latencies in milliseconds."""
    first = comparison.reports[0]
    lines = [
        f"A {first[0].endpoint} ({first[0].model})   B {first[1].endpoint} ({first[1].model})"
        f"   {len(comparison.reports)} rounds",
        f"{'median':<16}{'A':>10}{'B':>10}   {'A / B (least to greatest)':<32}better is",
    ]
    for figure in comparison.figures:
        unit = 1 if figure.higher_is_better else 1000
        a = "-" if figure.a is None else f"{figure.a.median * unit:.2f}"
        b = "-" if figure.b is None else f"{figure.b.median * unit:.2f}"
        ratio = "-" if figure.ratio is None else str(figure.ratio)
        name = figure.name if figure.higher_is_better else f"{figure.name} ms"
        better = "higher" if figure.higher_is_better else "lower"
        lines.append(f"{name:<16}{a:>10}{b:>10}   {ratio:<32}{better}")
    for name, side in zip("AB", zip(*comparison.reports, strict=True), strict=True):
        shares = [report.copied for report in side if report.copied is not None]
        if shares:
            lines.append(f"{name} repeated {sum(shares) / len(shares):.1%} of what was given")
        for report in side:
            lines += [f"error in {name}: {kind}: {n}" for kind, n in sorted(report.errors.items())]
    return "\n".join(lines)
