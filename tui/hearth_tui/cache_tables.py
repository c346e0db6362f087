"""Tables of a cache of answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from hearth_tui import figures
from hearth_tui.cache_types import Audit, CachedAnswer, Summary
from hearth_tui.printable import one_line

_RESULTS = ("HIT", "COALESCED", "MISS", "BYPASS")
_KEY_DIGITS = 12


def summary_lines(summary: Summary) -> Iterator[str]:
    """What the cache did, in a few lines."""
    if not summary.enabled:
        yield "the cache is off (cache.enabled)"
        return
    n_bytes = sum(scope.n_bytes for scope in summary.scopes)
    n_answers = sum(scope.n_answers for scope in summary.scopes)
    room = figures.data_size(summary.budget_bytes)
    yield f"{n_answers} answers, {figures.data_size(n_bytes)} of {room}"
    for model, results in summary.results.items():
        counted = ", ".join(f"{results[r]} {r}" for r in _RESULTS if results.get(r))
        seconds = figures.duration(summary.saved_seconds.get(model, 0.0))
        tokens = figures.count(summary.saved_tokens.get(model, 0))
        yield one_line(f"{model}: {counted}; spared {seconds} and {tokens} tokens")
    for fault, n in summary.faults.items():
        yield one_line(f"fault {fault}: {n} times")


def summary_table(summary: Summary) -> Table:
    """What it holds, by whom and of which model."""
    table = _table(("MODEL", "SHARED BY", "DIGEST"), ("ANSWERS", "SIZE"))
    for scope in summary.scopes:
        table.add_row(
            Text(one_line(scope.model)),
            Text(one_line(scope.partition)),
            figures.short_digest(scope.digest),
            str(scope.n_answers),
            figures.data_size(scope.n_bytes),
        )
    return table


def audit_table(audit: Audit) -> Table:
    """Hits and false hits at each threshold, with their bounds."""
    table = _table(("THRESHOLD",), ("HITS", "BOUNDS", "FALSE HITS", "FALSE BOUNDS"))
    for row in audit.rows:
        table.add_row(
            f"{row.threshold:.2f}{' *' if row.threshold == audit.chosen else ''}",
            f"{row.hit_rate:.1%}",
            f"{row.hit_low:.1%} - {row.hit_high:.1%}",
            f"{row.false_rate:.1%}",
            f"{row.false_low:.1%} - {row.false_high:.1%}",
        )
    return table


def audit_lines(audit: Audit) -> Iterator[str]:
    """What was judged, and what follows."""
    yield (
        f"{audit.n_same} pairs that are the same ({audit.refused_same} refused by guards), "
        f"{audit.n_different} that are not ({audit.refused_different} refused)"
    )
    if audit.chosen is None:
        yield "no threshold keeps false hits under 1 %"
    else:
        yield f"the lowest with false hits under 1 %: cache.threshold = {audit.chosen:g}"


def answers_table(answers: Sequence[CachedAnswer], now: float) -> Table:
    """Answers by the words they were asked for."""
    table = _table(("KEY", "MODEL"), ("HITS", "SPARED", "AGE", "TOKENS", "SIZE"), ("QUESTION",))
    for answer in answers:
        table.add_row(
            answer.key[:_KEY_DIGITS],
            Text(one_line(answer.model)),
            str(answer.hits),
            figures.duration(answer.saved_seconds),
            figures.duration(max(0.0, now - answer.created)),
            str(answer.n_output),
            figures.data_size(answer.n_bytes),
            Text(one_line(answer.question), overflow="ellipsis", no_wrap=True),
        )
    return table


def _table(left: Sequence[str], right: Sequence[str], last: Sequence[str] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table
