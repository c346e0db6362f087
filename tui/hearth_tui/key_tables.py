"""Tables of keys, and of what operators did."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text

from hearth_tui import figures
from hearth_tui.key_types import Action, KeyInfo
from hearth_tui.printable import one_line


def keys_table(keys: Sequence[KeyInfo], now: float) -> Table:
    """Who may do what, and until when."""
    table = _table("NAME", "ROLE", "CLASS", "MODELS", "LIMITS", "EXPIRES", "USED", "FROM")
    for key in keys:
        table.add_row(
            _text(key.name),
            _text(key.role),
            _text(key.klass),
            _text(", ".join(key.models) or "all"),
            _text(_limits(key)),
            Text(_expiry(key), style="red" if key.expired else ""),
            _text(None if key.last_used is None else f"{_ago(key.last_used, now)} ago"),
            _text(key.source),
        )
    return table


def actions_table(actions: Sequence[Action]) -> Table:
    """Who did what, when, from where, and what came of it."""
    table = _table("WHEN", "WHO", "FROM", "STATUS", "WHAT")
    for action in actions:
        table.add_row(
            f"{datetime.fromtimestamp(action.at).astimezone():%Y-%m-%d %H:%M:%S}",
            _text(action.who),
            _text(action.origin),
            Text(str(action.status), style="" if action.status < 400 else "red"),
            _text(f"{action.action} {action.detail}"),
        )
    return table


def _limits(key: KeyInfo) -> str:
    limits = key.limits
    parts = [
        f"{limits.concurrency} at once" if limits.concurrency is not None else "",
        f"{figures.count(limits.tokens_per_minute)} tokens/min"
        if limits.tokens_per_minute is not None
        else "",
        f"{limits.deadline_seconds:g} s" if limits.deadline_seconds is not None else "",
    ]
    return ", ".join(filter(None, parts)) or "none"


def _expiry(key: KeyInfo) -> str:
    if key.expires is None:
        return "never"
    when = f"{datetime.fromtimestamp(key.expires).astimezone():%Y-%m-%d %H:%M}"
    return f"expired {when}" if key.expired else when


def _ago(moment: float, now: float) -> str:
    return figures.duration(max(0.0, now - moment))


def _text(value: str | None) -> Text:
    return Text(one_line(figures.or_dash(value)))


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
