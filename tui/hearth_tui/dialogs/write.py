"""Write: a text of one line: a file's name, instructions."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label


class Write(ModalScreen[str | None]):
    """What was written, which may be nothing; None where it was left."""

    DEFAULT_CSS = """
    Write { align: center middle; }
    Write > Vertical { width: 74; max-width: 95%; height: auto; padding: 0 1; border: round $accent; background: $surface; }
    Write Input { border: round $primary; background: $surface; }
    Write Label { width: 100%; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave it")]

    def __init__(self, title: str, hint: str, text: str = "") -> None:
        super().__init__()
        self._title = title
        self._hint = hint
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = self._title
            box.border_subtitle = "Enter takes it, Esc leaves"
            yield Input(self._text, id="text")
            yield Label(self._hint, markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """That is it."""
        event.stop()
        _ = self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        """It stays as it is."""
        _ = self.dismiss(None)
