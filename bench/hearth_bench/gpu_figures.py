"""Figures of a run on a GPU beside what was wanted, as a table and for machines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured."""

    name: str
    value: float
    unit: str  # "%": a share; "x": a ratio
    must: float | None = None
    aim: float | None = None
    detail: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Whether what was wanted was reached."""
        if self.must is None:
            return ""
        if self.value < self.must:
            return "MISSED"
        return "met" if self.aim is None or self.value < self.aim else "aim met"


def table(figures: Iterable[Figure]) -> str:
    """In Markdown."""
    lines = ["| figure | measured | must | aim | | detail |", "|---|---|---|---|---|---|"]
    for f in figures:
        detail = ", ".join(f"{name} {value:.4g}" for name, value in f.detail.items())
        wanted = " | ".join("" if w is None else f"{w:g} {f.unit}" for w in (f.must, f.aim))
        lines.append(f"| {f.name} | {f.value:.4g} {f.unit} | {wanted} | {f.verdict} | {detail} |")
    return "\n".join(lines)


def as_json(figures: Iterable[Figure], about: dict[str, str]) -> dict[str, Any]:
    """All of it."""
    return {"about": about, "figures": [{**asdict(f), "verdict": f.verdict} for f in figures]}
