"""Show: a text in a box over the screen, until a key is pressed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.visual import VisualType
from textual.widgets import Static

from hearth_tui.actions import Action


class Show(ModalScreen[None]):
    """Scrolls where it is long."""

    DEFAULT_CSS = """
    Show { align: center middle; }
    Show > VerticalScroll {
        width: 76; max-width: 96%; height: auto; max-height: 92%; padding: 0 1;
        border: round $accent; background: $surface;
    }
    Show Static { width: 100%; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,enter,question_mark,f1", "leave", "Close")
    ]

    def __init__(self, title: str, content: VisualType) -> None:
        super().__init__()
        self._title = title
        self._content = content

    def compose(self) -> ComposeResult:
        with VerticalScroll() as box:
            box.border_title = self._title
            box.border_subtitle = "Esc closes"
            yield Static(self._content, markup=False)

    def action_leave(self) -> None:
        """Back to the screen."""
        _ = self.dismiss(None)


def help_of(actions: Iterable[Action]) -> Table:
    """Every action with its keys."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for action in actions:
        mark = " (operators only)" if action.needs_operator else ""
        table.add_row(action.key_names, Text(action.does + mark))
    return table
