"""`hearth ask` against a box: what it sends, what it prints, how it fails."""

from __future__ import annotations

import json
import os

import pytest
from fake_box import MODEL, USAGE, FakeBox
from hearth_process import hearth


def test_the_answer_goes_to_standard_output(box: FakeBox) -> None:
    done = hearth("--socket", str(box.socket), "ask", "How", "--system", "Be kind", "are you?")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello, world\n", b"")
    assert box.requests == [
        {
            "model": "canary",
            "messages": [
                {"role": "system", "content": "Be kind"},
                {"role": "user", "content": "How are you?"},
            ],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_sampling_goes_to_the_box(box: FakeBox) -> None:
    options = [
        "-m",
        "other",
        "--max-tokens",
        "5",
        "--temperature",
        "0",
        "--seed",
        "-1",
        "--no-stream",
    ]
    done = hearth("--url", box.url, "ask", *options, "--", "-x", "--y")
    assert done.stdout == b"Hello, world\n"
    assert box.requests == [
        {
            "model": "other",
            "messages": [{"role": "user", "content": "-x --y"}],
            "max_tokens": 5,
            "temperature": 0.0,
            "seed": -1,
        }
    ]


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        (["-"], b"from the pipe\n", "from the pipe"),
        ([], b"from the pipe\n", "from the pipe"),
        (["Sum", "up:"], b"a\nb\n", "Sum up:\n\na\nb"),
        (["alone"], b"", "alone"),
        ([], "größe\r\n".encode(), "größe"),
    ],
)
def test_where_the_prompt_comes_from(
    box: FakeBox, words: list[str], stdin: bytes, prompt: str
) -> None:
    assert hearth("--url", box.url, "ask", *words, stdin=stdin).returncode == 0
    assert box.requests[0]["messages"] == [{"role": "user", "content": prompt}]


@pytest.mark.parametrize(
    ("words", "stdin"),
    [(["-"], b" \n"), ([], b""), (["x"], b"\xff\xfe"), ([os.fsdecode(b"\xff")], b"")],
)
def test_what_is_no_prompt(box: FakeBox, words: list[str], stdin: bytes) -> None:
    done = hearth("--url", box.url, "ask", *words, stdin=stdin)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert box.requests == []


def test_stats_go_to_standard_error(box: FakeBox) -> None:
    box.piece_seconds = 0.05
    done = hearth("--url", box.url, "ask", "--stats", "x")
    assert done.stdout == b"Hello, world\n"
    line = done.stderr.decode()
    assert line.startswith("first token ")
    assert " · 3 tokens · " in line
    assert "tokens/s · prompt 7 tokens (4 cached)\n" in line


def test_json_is_one_object(box: FakeBox) -> None:
    box.piece_seconds = 0.05
    done = hearth("--url", box.url, "ask", "--json", "x")
    answer = json.loads(done.stdout)
    assert done.stdout.count(b"\n") == 1
    assert list(answer) == [
        "model",
        "text",
        "finish_reason",
        "usage",
        "ttft_seconds",
        "tokens_per_second",
    ]
    assert (answer["model"], answer["text"]) == ("canary", "Hello, world")
    assert (answer["finish_reason"], answer["usage"]) == ("stop", USAGE)
    assert 0 < answer["ttft_seconds"] < 5
    assert 2 < answer["tokens_per_second"] < 21  # two tokens in two pauses


def test_json_without_a_stream_knows_no_speed(box: FakeBox) -> None:
    answer = json.loads(hearth("--url", box.url, "ask", "--json", "--no-stream", "x").stdout)
    assert (answer["text"], answer["ttft_seconds"], answer["tokens_per_second"]) == (
        "Hello, world",
        None,
        None,
    )


def test_a_refusal_is_one_line_and_status_1(box: FakeBox) -> None:
    error = {
        "message": "The queue\nis full",
        "type": "rate_limit_error",
        "param": None,
        "code": "queue_full",
    }
    box.refusal = (429, error, {"Retry-After": "3"})
    for options in ([], ["--no-stream"], ["--json"]):
        done = hearth("--url", box.url, "ask", *options, "x")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"hearth: The queue is full (try again in 3 s)\n"


def test_an_error_within_the_stream_comes_after_the_text(box: FakeBox) -> None:
    box.stream_end = [
        json.dumps({"error": {"message": "The engine died", "code": "engine_failed"}})
    ]
    done = hearth("--url", box.url, "ask", "x")
    assert (done.returncode, done.stdout) == (1, b"Hello, world\n")
    assert done.stderr == b"hearth: The engine died\n"


@pytest.mark.parametrize(
    ("end", "words"), [([], b"before the answer was finished"), (["{nonsense"], b"cannot be read")]
)
def test_a_stream_that_breaks_off(box: FakeBox, end: list[str], words: bytes) -> None:
    box.stream_end = end
    done = hearth("--url", box.url, "ask", "x")
    assert (done.returncode, done.stdout) == (1, b"Hello, world\n")
    assert words in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_box_that_dies_while_it_answers(box: FakeBox) -> None:
    box.dies = True
    done = hearth("--url", box.url, "ask", "x")
    assert (done.returncode, done.stdout) == (3, b"Hello, world\n")
    line = done.stderr.decode()
    assert line.startswith(f"hearth: the connection to the box at {box.url} was lost (")
    assert line.count("\n") == 1


def test_no_model_is_ready(box: FakeBox) -> None:
    box.models = [{**MODEL, "hearth": {"state": "failed", "error": "truncated"}}]
    done = hearth("--url", box.url, "ask", "x")
    assert done.returncode == 1
    assert done.stderr == b"hearth: no model is ready (canary failed: truncated)\n"


def test_a_model_of_a_server_that_tells_no_state(box: FakeBox) -> None:
    box.models = [{"id": "plain", "object": "model", "hearth": {"state": None}}, {"id": "second"}]
    assert hearth("--url", box.url, "ask", "x").returncode == 0
    assert box.requests[0]["model"] == "plain"
