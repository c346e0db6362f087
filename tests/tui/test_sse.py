"""Events come out whole, however the bytes arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hearth_tui.sse import EventBuffer


def events(data: bytes) -> list[bytes]:
    return list(EventBuffer().feed(data))


def test_comments_other_fields_and_both_line_ends() -> None:
    assert events(b": hi\n\nevent: x\ndata: a\nid: 1\n\ndata:b\r\n\r\n") == [b"a", b"b"]


def test_an_event_of_several_lines() -> None:
    assert events(b"data: a\ndata:  b\n\n") == [b"a\n b"]


def test_an_unfinished_event_is_not_given() -> None:
    assert events(b"data: a\n") == []


def test_other_line_separators_of_unicode_stay_in_the_data() -> None:
    text = "a\u2028b\u0085c\x0bd".encode()
    assert events(b"data: " + text + b"\n\n") == [text]


@given(st.lists(st.binary().filter(lambda b: not set(b) & {10, 13}), max_size=5), st.data())
def test_any_cut_gives_the_same_events(texts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(b"data: " + text + b"\n\n" for text in texts)
    cut = data.draw(st.integers(0, len(stream)))
    buffer = EventBuffer()
    assert [*buffer.feed(stream[:cut]), *buffer.feed(stream[cut:])] == texts
