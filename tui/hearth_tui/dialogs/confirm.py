"""Confirm: what cannot be taken back is done once its object's name has been typed."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label


class Confirm(ModalScreen[bool]):
    """True once the word was typed; False where it was left."""

    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm > Vertical {
        width: 64; max-width: 95%; height: auto; padding: 1 2;
        border: round $warning; background: $surface;
    }
    Confirm Label { width: 100%; }
    Confirm #title { text-style: bold; }
    Confirm #consequence { margin: 1 0; }
    Confirm #wrong { color: $error; height: 1; }
    Confirm Input { border: round $accent; background: $surface; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave it")]

    def __init__(self, title: str, consequence: str, word: str) -> None:
        super().__init__()
        self._title = title
        self._consequence = consequence
        self._word = word

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Label(self._title, id="title", markup=False)
            yield Label(self._consequence, id="consequence", markup=False)
            yield Label(f"Type {self._word} and press Enter; Esc leaves it.", markup=False)
            yield Input(id="word")
            yield Label("", id="wrong", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Only the very word counts."""
        event.stop()
        if event.value.strip() == self._word:
            _ = self.dismiss(True)
        else:
            self.query_one("#wrong", Label).update(f"that is not {self._word}")

    def action_leave(self) -> None:
        """Nothing is done."""
        _ = self.dismiss(False)
