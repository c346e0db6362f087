"""Choose: one of a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option


class Choose(ModalScreen[str | None]):
    """The name that was chosen; None where it was left."""

    DEFAULT_CSS = """
    Choose { align: center middle; }
    Choose > Vertical { width: 70; max-width: 95%; height: auto; max-height: 80%; border: round $accent; background: $surface; }
    Choose OptionList:focus { border: none; }
    Choose OptionList { height: auto; max-height: 14; border: none; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave it")]

    def __init__(self, title: str, options: Sequence[tuple[str, str]], current: str) -> None:
        """`options`: names, and what is said of each."""
        super().__init__()
        self._title = title
        self._options = options
        self._current = current

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = self._title
            box.border_subtitle = "Enter chooses, Esc leaves"
            yield OptionList(
                *(Option(Content(text), id=f"o{i}") for i, (_, text) in enumerate(self._options))
            )

    def on_mount(self) -> None:
        """The present one is where the choice begins."""
        names = [name for name, _ in self._options]
        if self._current in names:
            self.query_one(OptionList).highlighted = names.index(self._current)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """That is it."""
        event.stop()
        _ = self.dismiss(self._options[event.option_index][0])

    def action_leave(self) -> None:
        """It stays as it is."""
        _ = self.dismiss(None)
