"""Columns of the tables of `hearth top`: 80 characters must do, so no table is wider than 79."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from hearth_tui.top.widgets.live_table import Column

COLUMNS: Final[Mapping[str, Sequence[Column]]] = {
    "models": (
        Column("MODEL", 16),
        Column("STATE", 14),
        Column("LAYERS", 17),
        Column("BUSY", 5, right=True),
        Column("KV FREE", 7, right=True),
        Column("MEMORY", 8, right=True),
    ),
    "requests": (
        Column("ID", 5, right=True),
        Column("WHO", 9),
        Column("CLASS", 6),
        Column("MODEL", 11),
        Column("IN", 5, right=True),
        Column("OUT", 5, right=True),
        Column("TTFT", 7, right=True),
        Column("TOK/S", 6, right=True),
        Column("AGE", 7, right=True),
    ),
    "queries": (
        Column("HITS", 5, right=True),
        Column("SPARED", 7, right=True),
        Column("MODEL", 12),
        Column("FREQUENT QUERY"),
    ),
    "batches": (
        Column("BATCH", 32),
        Column("STATUS", 11),
        Column("DONE", 11, right=True),
        Column("FAILED", 6, right=True),
        Column("AGE", 8, right=True),
    ),
    "alerts": (Column("LEVEL", 8), Column("WHAT", 18), Column("MESSAGE")),
}
