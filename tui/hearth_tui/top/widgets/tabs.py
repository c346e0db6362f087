"""PaneTabs: the names of the lower panes, with their keys and what waits in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from hearth_tui.widgets.line import Line


class PaneTabs(Line):
    """One line."""

    DEFAULT_CSS = """
    PaneTabs { height: 1; padding: 0 1; background: $panel; }
    """

    def show_tabs(self, panes: Sequence[str], current: str, notes: Mapping[str, str]) -> None:
        """`notes`: what stands behind a name."""
        line = Text()
        for number, pane in enumerate(panes, 1):
            style = "bold reverse" if pane == current else ""
            note = notes.get(pane, "")
            line.append(f" {number} {pane}{' ' + note if note else ''} ", style)
            line.append(" ")
        self.show(line)
