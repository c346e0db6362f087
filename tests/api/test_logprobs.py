"""Log-probabilities: text of odd bytes, offsets in the text, what JSON has no number for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hearthd import wire
from hearthd.api.logprobs import LegacyWriter, chat_logprobs, token_text


def _delta(text: str, *pieces: bytes) -> wire.Delta:
    entries = [wire.TokenLogprob(i, piece, -1.0) for i, piece in enumerate(pieces)]
    return wire.Delta(rid=1, text=text, tokens=list(range(len(pieces))), logprobs=entries)


def test_bytes_that_are_no_characters_are_written_out() -> None:
    assert token_text("ü".encode()) == "ü"
    assert token_text(b"\xc3") == "bytes:\\xc3"
    assert token_text(b"") == ""


def test_a_character_of_two_tokens_begins_at_the_first() -> None:
    logprobs = LegacyWriter().write(_delta("aüb", b"a", b"\xc3", b"\xbc", b"b"))
    assert logprobs.text_offset == [0, 1, 1, 2]


def test_control_tokens_take_no_room() -> None:
    logprobs = LegacyWriter().write(_delta("ab", b"<s>", b"a", b"<|x|>", b"b"))
    assert logprobs.text_offset == [0, 0, 1, 1]


def test_a_space_that_is_not_part_of_the_text_takes_no_room() -> None:
    logprobs = LegacyWriter().write(_delta("Once upon", b" Once", b" upon"))
    assert logprobs.text_offset == [0, 4]


def test_no_number_is_infinite() -> None:
    entry = wire.TokenLogprob(1, b"a", float("-inf"), [(2, b"b", float("nan"))])
    (token,) = chat_logprobs([entry]).content
    assert token.logprob == -9999.0
    assert token.top_logprobs[0].logprob == -9999.0


@given(st.text(), st.lists(st.integers(1, 4)), st.integers(0, 3))
def test_offsets_cut_the_text_where_the_tokens_do(
    text: str, sizes: list[int], n_first: int
) -> None:
    """Whatever the tokens of valid UTF-8 are, each begins where the text before it ends."""
    data = text.encode("utf-8", "replace")
    text = data.decode()
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    pieces = [piece for piece in [*pieces, data] if piece]
    before, expected = b"", []
    for piece in pieces:
        expected.append(len(before.decode(errors="ignore")))
        before += piece
    writer = LegacyWriter()
    whole = writer.write(_delta(text, *pieces))
    assert whole.text_offset == expected
