"""Entry: where questions are written, over as many lines as they take."""

from __future__ import annotations

from dataclasses import dataclass

from textual.events import Key
from textual.message import Message
from textual.widgets import TextArea


class Entry(TextArea):
    """Enter sends, Ctrl-J begins a new line."""

    DEFAULT_CSS = """
    Entry { height: auto; min-height: 3; max-height: 8; border: round $primary; padding: 0 1; background: $background; scrollbar-size: 1 1; }
    Entry:focus { border: round $accent; }
    """

    @dataclass
    class Sent(Message):
        """Something was written and sent."""

        text: str

    class Left(Message):
        """Ctrl-D in an empty entry."""

    def __init__(self) -> None:
        super().__init__(
            id="entry",
            soft_wrap=True,
            tab_behavior="focus",
            show_line_numbers=False,
            highlight_cursor_line=False,
            placeholder="Ask something; Enter sends, ^J begins a new line",
        )

    async def _on_key(self, event: Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            if self.text.strip():
                self.post_message(self.Sent(self.text.strip()))
                self.clear()
        elif event.key == "ctrl+j":
            event.stop()
            event.prevent_default()
            self.insert("\n")
        elif event.key == "ctrl+d" and not self.text:
            event.stop()
            event.prevent_default()
            self.post_message(self.Left())
        else:
            await super()._on_key(event)
