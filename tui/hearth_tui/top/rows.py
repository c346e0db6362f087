"""Rows: what a pane shows of a reading, and all that can be told of one of its rows; pure."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from hearth_tui.top import lines
from hearth_tui.top.types import Batch, Top


def rows_of(
    pane: str, top: Top, batches: Iterable[Batch], by_saved: bool
) -> dict[str, tuple[Text, ...]]:
    """Cells by the key of their row; `by_saved` is the order of frequent queries. The log has no rows."""
    match pane:
        case "requests":
            return {str(r.number): lines.request_cells(r) for r in top.requests}
        case "cache":
            order = (lambda a: -a.saved_seconds) if by_saved else (lambda a: -a.hits)
            return {a.key: lines.answer_cells(a) for a in sorted(top.cache.top, key=order)}
        case "batches":
            return {b.id: lines.batch_cells(b, top.now) for b in batches}
        case "alerts":
            return {lines.alert_key(a, i): lines.alert_cells(a) for i, a in enumerate(top.alerts)}
        case _:
            return {}


def details_of(pane: str, top: Top, key: str) -> tuple[str, list[tuple[str, str]]] | None:
    """A title, and names with values; None where the row is not there, or has said everything."""
    match pane:
        case "requests":
            for request in top.requests:
                if str(request.number) == key:
                    return f"request {key}", list(lines.request_details(request))
        case "cache":
            for answer in top.cache.top:
                if answer.key == key:
                    return "a frequent query", list(lines.answer_details(answer))
        case "alerts":
            for number, alert in enumerate(top.alerts):
                if lines.alert_key(alert, number) == key:
                    return f"{alert.level}: {alert.kind}", list(lines.alert_details(alert))
    return None
