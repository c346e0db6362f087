"""Numbers as people read them."""

from __future__ import annotations

import pytest

from hearth_tui import figures
from hearth_tui.answer import Answer
from hearth_tui.types import ModelDetails, Place, PlanInForce, PromptTokensDetails, Usage


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0"),
        (999, "999"),
        (1000, "1k"),
        (1536, "1.5k"),
        (99_960, "100k"),
        (812_000, "812k"),
        (999_600, "1M"),
        (494_000_000, "494M"),
        (7_600_000_000, "7.6B"),
        (2 * 10**15, "2000T"),
    ],
)
def test_count(number: int | None, text: str) -> None:
    assert figures.count(number) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(None, "-"), (812, "812 B"), (1536, "1.5 KiB"), (3 * 2**30, "3 GiB")]
)
def test_data_size(n_bytes: int | None, text: str) -> None:
    assert figures.data_size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.0841, "84 ms"), (0.9999, "1.00 s"), (2.314, "2.31 s")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert figures.duration(seconds) == text


def test_what_is_unknown_is_a_dash() -> None:
    nothing = ModelDetails()
    assert figures.state(nothing) == figures.room(nothing) == figures.short_digest(None) == "-"
    assert figures.room(ModelDetails(context=2048)) == "2048 x -"
    assert figures.share(None, None) == "-"
    assert figures.share(None, 10) == "-/10"
    assert figures.share(5, None) == "5"
    assert figures.share(0, 3000) == "0/3k"


def test_states_tell_progress() -> None:
    assert figures.state(ModelDetails(state="loading", progress=0.425)) == "loading 42%"
    assert figures.state(ModelDetails(state="ready", progress=1.0)) == "ready"


def test_speed_in_one_line() -> None:
    usage = Usage(7, 1, 8, PromptTokensDetails(4))
    whole = Answer("m", "a", "length", usage, 0.0841, None)
    expected = "first token 84 ms · 1 token · prompt 7 tokens (4 cached) · cut at the length limit"
    assert figures.speed(whole) == expected
    assert (
        figures.speed(Answer("m", "a", "stop", None, None, 51.26))
        == "first token - · 51.3 tokens/s"
    )


def test_plans() -> None:
    cut = PlanInForce(
        origin="planned", why="planned for latency",
        places=[Place("cuda:0", "cuda", (0, 12), 3 << 30), Place("cpu:0", "gguf", (12, 24), 1 << 30)],
    )  # fmt: skip
    assert figures.plan(cut) == (
        "cuda:0 cuda layers 0-11 (3 GiB) | cpu:0 gguf layers 12-23 (1 GiB), planned for latency"
    )
    assert figures.plan(PlanInForce(places=[Place("cpu:0")])) == "cpu:0"
