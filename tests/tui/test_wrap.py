"""Words move to the next line whole, and nothing else changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from hearth_tui.wrap import WordWrap

TEXTS = st.text(alphabet="ab 字\n", max_size=60)


def wrapped(text: str, columns: int = 10) -> str:
    wrap = WordWrap(columns)
    return wrap.feed(text) + wrap.flush()


def test_a_line_breaks_before_the_word_that_does_not_fit() -> None:
    assert wrapped("one two three four") == "one two\nthree four"


def test_a_word_wider_than_the_line_is_left_to_the_terminal() -> None:
    assert wrapped("a 0123456789012 b") == "a\n0123456789012\nb"


def test_indentation_and_code_stay() -> None:
    code = "```\na line of code that is long\n  x\n```\n"
    assert wrapped(code + "- one two three") == code + "- one two\nthree"


def test_a_word_is_printed_once_it_is_whole() -> None:
    wrap = WordWrap(10)
    assert [wrap.feed(t) for t in ("he", "llo", " ", "wor")] == ["", "", "hello", ""]
    assert wrap.flush() == " wor"


def test_text_without_spaces_is_not_kept_back() -> None:
    assert WordWrap(10).feed("你好") == "你好"
    assert wrapped("你好你好你好") == "你好你好你\n好"


@given(TEXTS, st.integers(1, 12))
def test_nothing_but_white_space_changes(text: str, columns: int) -> None:
    shown = wrapped(text, columns)
    assert "".join(shown.split()) == "".join(text.split())
    for line in shown.split("\n"):
        assert cell_len(line) <= columns or len(line.split()) == 1


@given(TEXTS, st.integers(0, 60))
def test_pieces_give_what_the_whole_gives(text: str, cut: int) -> None:
    wrap = WordWrap(10)
    assert wrap.feed(text[:cut]) + wrap.feed(text[cut:]) + wrap.flush() == wrapped(text)
