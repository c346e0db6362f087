"""The benches' reading of event streams, wherever the bytes are cut."""

from __future__ import annotations

import msgspec
import pytest

from hearth_bench.sse import Chunk, EventStream

STREAM = (
    b": a comment\r\n\r\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\r\n\r\n'
    b'event: message\ndata: {"choices":[{"delta":{"content":"H\xc3\xa9"},"index":0}]}\n\n'
    b'data:{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n'
    b'data: {"choices":[{"text":"","finish_reason":"stop"}],"timings":{"x":1}}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\n'
    b"data: [DONE]\n\n"
)


def read(pieces: list[bytes]) -> tuple[list[Chunk], bool]:
    events = EventStream()
    return [chunk for piece in pieces for chunk in events.feed(piece)], events.done


def test_chunks_say_what_they_carry() -> None:
    chunks, done = read([STREAM])

    assert done
    assert [chunk.says_something for chunk in chunks] == [False, True, True, False, False]
    assert [chunk.text for chunk in chunks] == ["", "Hé", "", "", ""]
    assert [chunk.finish for chunk in chunks] == [None, None, None, "stop", None]
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.n_cached) == (5, 2, None)


def test_every_cut_gives_the_same_chunks() -> None:
    whole = read([STREAM])

    for cut in range(len(STREAM)):
        assert read([STREAM[:cut], STREAM[cut:]]) == whole
    assert read([bytes([byte]) for byte in STREAM]) == whole


def test_a_stream_that_breaks_off_is_not_done() -> None:
    assert not read([STREAM[:-20]])[1]


def test_data_that_is_no_chunk_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError):
        read([b"data: {\n\n"])
