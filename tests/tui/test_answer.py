"""An answer's text and speed from its chunks."""

from __future__ import annotations

import pytest

from hearth_tui.answer import Answer, AnswerMeter, whole_answer
from hearth_tui.errors import AnswerBrokenOff
from hearth_tui.types import AnswerMessage, Chunk, ChunkChoice, Completion, Usage


def piece(text: str | None = None, finish: str | None = None, index: int = 0) -> Chunk:
    return Chunk(choices=[ChunkChoice(index, AnswerMessage(content=text), finish)], model="m")


def answer(*chunks: Chunk) -> Answer:
    meter = AnswerMeter(100.0)
    for number, chunk in enumerate(chunks, 1):
        meter.add(chunk, 100.0 + number)
    return meter.finish()


def test_speed_counts_from_the_first_text() -> None:
    usage = Usage(5, 9, 14)
    whole = answer(piece(""), piece("a"), piece("b"), piece(None, "stop"), Chunk(usage=usage))
    assert whole == Answer("m", "ab", "stop", usage, ttft_seconds=2.0, tokens_per_second=4.0)


@pytest.mark.parametrize("texts", [["a"], []])
def test_a_speed_that_cannot_be_measured_is_unknown(texts: list[str]) -> None:
    whole = answer(*map(piece, texts), piece(None, "stop"), Chunk(usage=Usage(5, 1, 6)))
    assert whole.tokens_per_second is None
    assert (whole.ttft_seconds is None) == (not texts)


def test_other_choices_are_left_out() -> None:
    assert answer(piece("a"), piece("x", "stop", index=1), piece("b", "length")).text == "ab"


def test_a_stream_without_a_finish_is_broken_off() -> None:
    with pytest.raises(AnswerBrokenOff):
        answer(piece("a"))


def test_a_whole_answer_has_no_speed() -> None:
    with pytest.raises(AnswerBrokenOff):
        whole_answer(Completion(choices=[]))
