"""What is typed in a chat, and what it means."""

from __future__ import annotations

import pytest

from hearth_tui.entry import Command, Said, read_entry


def entry_of(*lines: str) -> Said | Command | None:
    rest = iter(lines)

    def read_line(more: bool) -> str:
        for line in rest:
            return line
        raise EOFError

    return read_entry(read_line)


@pytest.mark.parametrize(
    ("lines", "entry"),
    [
        (["hello"], Said("hello")),
        (["  "], None),
        (["/model  a b "], Command("model", "a b")),
        (["/quit"], Command("quit", "")),
        (["//etc is"], Said("/etc is")),
        (["a\\", "b\\", "c", "d"], Said("a\nb\nc")),
        (["a\\"], Said("a")),
        (["\\"], None),
        (["/multi", "one", "", "/two", "/end", "x"], Said("one\n\n/two")),
        (["/multi", "one"], Said("one")),
        (["/multi", "/end"], None),
    ],
)
def test_entries(lines: list[str], entry: Said | Command | None) -> None:
    assert entry_of(*lines) == entry


def test_the_end_is_passed_on() -> None:
    with pytest.raises(EOFError):
        entry_of()
