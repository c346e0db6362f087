"""Line: a text that is drawn only where it has changed, and never moves its neighbours."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static


class Line(Static):
    """As many lines as its style gives it."""

    DEFAULT_CSS = """
    Line { height: 1; width: 1fr; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, *, id: str) -> None:  # noqa: A002  # as textual calls it
        super().__init__("", id=id, markup=False)
        self._text = Text()

    def show(self, text: Text) -> bool:
        """Show a text; returns whether it is another one than before."""
        if text == self._text:
            return False
        self._text = text
        self.update(text, layout=False)
        return True
