"""bench/drafting.py: the same engine answers in three ways, and says how they compare."""

from __future__ import annotations

from pathlib import Path

import pytest

import drafting
import models
from hearth_bench.guessing import LOOKUP, MODEL, PLAIN, GuessingEngine, gain, guessing_load


@pytest.fixture
def canary() -> Path:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    if not models.canary_path().exists():
        pytest.skip("the canary has not been trained yet")
    return models.canary_path()


def test_every_way_says_the_same_and_only_its_own_guesses_count(canary: Path) -> None:
    engine = GuessingEngine(guessing_load(canary, canary, n_seq=2, threads=1))
    try:
        found = engine.measure("count", 2, n_rounds=2, seed=1)
    finally:
        engine.close()
    assert found[PLAIN].texts == found[LOOKUP].texts == found[MODEL].texts
    assert len(found[PLAIN].texts) == 4
    assert min(map(len, found[PLAIN].texts)) > 10
    assert found[LOOKUP].guessed["model"] == 0
    assert not found[PLAIN].guessed
    ratio = gain(found, MODEL)
    assert ratio is not None
    assert 0.05 < ratio.low <= ratio.median <= ratio.high < 20


def test_the_script_prints_a_line_for_each_way(
    canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(canary), "--tasks", "count", "--requests", "1", "--rounds", "1"]
    assert drafting.main([*arguments, "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["lookup:", "model:"]
    assert all(line.endswith("same text: 1/1") for line in lines)
