"""Turn: a question and what was answered, as Markdown that is drawn while it comes."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownStream

from hearth_tui.printable import printable


class Turn(Vertical):
    """Its answer may be written once as a whole, or piece by piece."""

    DEFAULT_CSS = """
    Turn { height: auto; margin-bottom: 1; }
    Turn .question { height: auto; padding: 0 1; background: $panel; border-left: thick $accent; }
    Turn Markdown { height: auto; margin: 0; padding: 0 1; background: transparent; }
    Turn .note { height: auto; padding: 0 1; color: $text-muted; display: none; }
    Turn .note.-shown { display: block; }
    Turn .note.-bad { color: $error; }
    """

    def __init__(self, question: str, answer: str = "") -> None:
        super().__init__()
        self.question = question
        self.answer = printable(answer)
        self._markdown = Markdown(self.answer, open_links=False)
        self._note = Static("", classes="note", markup=False)
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        yield Static(Text(printable(self.question)), classes="question", markup=False)
        yield self._markdown
        yield self._note

    async def write(self, text: str) -> None:
        """One more piece of the answer."""
        text = printable(text)
        self.answer += text
        if self._stream is None:
            self._stream = Markdown.get_stream(self._markdown)
        await self._stream.write(text)

    async def finish(self) -> None:
        """Nothing more comes."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None

    def note(self, text: str, *, bad: bool = False) -> None:
        """Something about the answer, below it."""
        self._note.set_class(bool(text), "-shown")
        self._note.set_class(bad, "-bad")
        self._note.update(Text(printable(text)))
