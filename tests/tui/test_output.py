"""A model's text on its way out."""

from __future__ import annotations

import io

import pytest

from hearth_tui.output import TextOutput
from hearth_tui.printable import one_line, printable


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_no_commands_and_a_pipe_gets_everything() -> None:
    for stream, shown in ((Tty(), "[2Ja\tb\n"), (io.StringIO(), "\x1b[2Ja\tb\n")):
        with TextOutput(stream) as output:
            output.write("\x1b[2Ja\tb\n")
        assert stream.getvalue() == shown


@pytest.mark.parametrize("text", ["a", "a\n"])
def test_the_last_line_ends(text: str) -> None:
    stream = io.StringIO()
    with TextOutput(stream) as output:
        output.write(text)
    assert stream.getvalue() == "a\n"


def test_nothing_said_is_no_line() -> None:
    stream = Tty()
    with TextOutput(stream):
        pass
    assert stream.getvalue() == ""


def test_after_ctrl_c_a_terminal_starts_a_new_line() -> None:
    for stream, shown in ((Tty(), "a\n\n"), (io.StringIO(), "a\n")):
        with pytest.raises(KeyboardInterrupt):
            _interrupted(TextOutput(stream))
        assert stream.getvalue() == shown


def test_the_spinner_is_stopped_before_the_first_text() -> None:
    stream = Tty()
    seen: list[str] = []
    with TextOutput(stream, 80, before_first=lambda: seen.append(stream.getvalue())) as output:
        output.write("")
        assert seen == []
        output.write("one two ")
        output.write("three")
    assert seen == [""]
    assert stream.getvalue() == "one two three\n"


def test_others_words_in_one_line() -> None:
    assert one_line("a\n\r\tb  c\x1b\x9b") == "a b c"
    assert printable("a\u0085b\x7f") == "ab"


def _interrupted(output: TextOutput) -> None:
    with output:
        output.write("a\n")
        raise KeyboardInterrupt
