"""Text of a token stream: exact at every byte, and no stop string ever shows."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hearthd.engine.text import TextStream, partial_match


class Bytes:
    """A tokenizer of pieces given as bytes: token i is piece i."""

    bos_id = None
    eos_id = None
    end_ids: frozenset[int] = frozenset()

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = pieces

    @property
    def n_vocab(self) -> int:
        return len(self.pieces)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        raise NotImplementedError

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self.pieces[token]

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        return b"".join(self.pieces[t] for t in tokens)


def run(
    pieces: Sequence[bytes],
    stops: Sequence[str] = (),
    *,
    include_stop: bool = False,
    min_tokens: int = 0,
) -> tuple[list[str], list[int]]:
    stream = TextStream(Bytes(pieces), stops, include_stop=include_stop, min_tokens=min_tokens)
    texts: list[str] = []
    tokens: list[int] = []
    for token in range(len(pieces)):
        text, released = stream.push(token)
        texts.append(text)
        tokens += released
        if stream.stopped_by:
            return texts, tokens
    text, released = stream.flush()
    return [*texts, text], tokens + released


cuts = st.lists(st.integers(1, 4), min_size=1, max_size=30)


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    pieces = []
    at = 0
    i = 0
    while at < len(data):
        size = sizes[i % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
        i += 1
    return pieces


@given(st.text(max_size=40), cuts)
def test_text_is_exact_wherever_tokens_cut_it(text: str, sizes: list[int]) -> None:
    pieces = cut(text.encode(), sizes)
    texts, tokens = run(pieces)
    assert "".join(texts) == text
    assert tokens == list(range(len(pieces)))
    assert not any("�" in t for t in texts) or "�" in text


@given(st.binary(max_size=40), cuts)
def test_bytes_that_are_no_utf8_become_what_python_makes_of_them(
    data: bytes, sizes: list[int]
) -> None:
    texts, tokens = run(cut(data, sizes))
    assert "".join(texts) == data.decode("utf-8", errors="replace")
    assert tokens == list(range(len(cut(data, sizes))))


@given(
    st.text(alphabet="abé", max_size=30),
    st.lists(st.text(alphabet="abé", min_size=1, max_size=4), min_size=1, max_size=3),
    cuts,
)
def test_a_stop_string_never_shows(text: str, stops: list[str], sizes: list[int]) -> None:
    pieces = cut(text.encode(), sizes)
    texts, tokens = run(pieces, stops)
    # the stream looks after each token: the earliest match among those complete by then
    shown = "".join(texts)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    if not any(stop in text for stop in stops):
        assert shown == text
        assert tokens == list(range(len(pieces)))
    shown_so_far = ""
    for piece in texts[:-1]:
        shown_so_far += piece
        assert not any(stop in shown_so_far for stop in stops)


def test_text_that_may_begin_a_stop_string_waits() -> None:
    texts, tokens = run([b"one", b" ST", b"AR", b"T two", b" STO", b"P three"], ["STOP"])
    assert texts == ["one", "", " STAR", "T two", "", " "]
    assert tokens == [0, 1, 2, 3, 4]


def test_tokens_of_a_stop_string_are_not_released() -> None:
    texts, tokens = run([b"yes", b"E", b"N", b"D"], ["END"])
    assert "".join(texts) == "yes"
    assert tokens == [0]


def test_a_stop_string_can_be_kept() -> None:
    texts, tokens = run([b"yes", b"E", b"N", b"Dmore"], ["END"], include_stop=True)
    assert "".join(texts) == "yesEND"
    assert tokens == [0, 1, 2, 3]


def test_stop_strings_wait_for_the_least_number_of_tokens() -> None:
    texts, _ = run([b".", b".", b".", b"."], ["."], min_tokens=2)
    assert "".join(texts) == ".."
    texts, _ = run([b"a", b"b.", b"c", b"."], ["."], min_tokens=3)
    assert "".join(texts) == "ab.c"


def test_partial_match_is_the_longest_beginning() -> None:
    assert partial_match("xxab", ["abab"]) == 2
    assert partial_match("xaba", ["abab", "bax"]) == 3
    assert partial_match("abab", ["abab"]) == 2  # a whole match is not a partial one
    assert partial_match("x", ["abab"]) == 0


pieces_of_a_few_signs = st.lists(
    st.sampled_from(
        [b"a", b"b", b"ab", b"ba.", b" a", "é".encode(), b"\xc3", b"\xa9b", b"\xe5", b"\xff"]
    ),
    max_size=12,
)


@given(
    pieces_of_a_few_signs,
    st.lists(st.text(alphabet="ab.é", min_size=1, max_size=4), max_size=2),
    st.integers(0, 12),
    st.booleans(),
)
def test_a_stream_that_resumes_after_what_was_released_says_the_rest(
    pieces: list[bytes], stops: list[str], n_pushed: int, include_stop: bool
) -> None:
    texts, tokens = run(pieces, stops, include_stop=include_stop)
    first = TextStream(Bytes(pieces), stops, include_stop=include_stop)
    said, released = "", list[int]()
    for token in range(min(n_pushed, len(pieces))):
        text, out = first.push(token)
        said, released = said + text, released + out
        if first.stopped_by is not None:
            return
    second = TextStream(Bytes(pieces), stops, include_stop=include_stop)
    second.resume(released)
    for token in range(len(released), len(pieces)):
        text, out = second.push(token)
        said, released = said + text, released + out
        if second.stopped_by is not None:
            break
    text, out = second.flush()
    assert said + text == "".join(texts)
    assert released + out == tokens
