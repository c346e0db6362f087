"""Snapshots: a screen as text, compared with the one that was looked at and found good.

What is compared is small and readable in a diff: the characters of the screen, and below them which of them are dim
or reversed. HEARTH_SNAPSHOTS=update writes what is there now; look at it before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from textual.app import App

FOLDER = Path(__file__).parents[1] / "tui" / "snapshots"
UPDATE = os.environ.get("HEARTH_SNAPSHOTS") == "update"


def screen_text(app: App[Any]) -> str:
    """The lines of a screen, and then which words of them stand out."""
    lines, marks = [], []
    for number, strip in enumerate(app.screen._compositor.render_strips(), 1):
        lines.append(strip.text.rstrip())
        for segment in strip:
            if segment.style is None or not segment.text.strip():
                continue
            names = [n for n in ("dim", "reverse") if getattr(segment.style, n)]
            if names:
                marks.append(f"{number:2} {' '.join(names)}: {segment.text.strip()}")
    return "\n".join([*lines, "", *marks]) + "\n"


def check_snapshot(app: App[Any], name: str) -> None:
    """Fail where the screen is not the one that is kept under this name."""
    path = FOLDER / f"{name}.txt"
    now = screen_text(app)
    if UPDATE:
        FOLDER.mkdir(exist_ok=True)
        path.write_text(now)
    kept = path.read_text() if path.exists() else ""
    assert now == kept, f"{path.name} has changed:\n{now}"
