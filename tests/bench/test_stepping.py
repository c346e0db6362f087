"""Turns of the engine and the bare loop, and the scripts that measure a whole hearthd."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import engine_step
import models
import startup
import ttft_overhead
from hearth_backends.canary import tasks, tokens
from hearth_bench.bare import BareLlama
from hearth_bench.stepping import BareStepper, EngineStepper, engine_load, take_turns

CANARY = models.canary_path()


@pytest.fixture
def canary() -> Path:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    if not CANARY.exists():
        pytest.skip("the canary has not been trained yet")
    return CANARY


class FakeStepper:
    """Each step takes as long as it is told, on a clock that both share."""

    def __init__(self, name: str, seconds: float, clock: list[float], seen: list[str]) -> None:
        self._name, self._seconds, self._clock, self._seen = name, seconds, clock, seen

    def begin(self, prompts: Sequence[list[int]], n_steps: int) -> None:
        self._seen.append(f"{self._name} begins {len(prompts)}")

    def step(self) -> None:
        self._clock[0] += self._seconds
        self._seen.append(self._name)

    def end(self) -> None:
        self._seen.append(f"{self._name} ends")


def test_turns_alternate_and_each_side_is_timed_apart() -> None:
    clock, seen = [0.0], list[str]()
    a, b = FakeStepper("a", 1.0, clock, seen), FakeStepper("b", 3.0, clock, seen)

    times = take_turns(a, b, [[1], [2]], n_steps=4, turn=2, clock=lambda: clock[0])

    assert times == ([[1.0, 1.0]] * 2, [[3.0, 3.0]] * 2)
    assert seen == ["a begins 2", "b begins 2", *"aabbaabb", "a ends", "b ends"]


@pytest.fixture
def engine(canary: Path) -> Iterator[EngineStepper]:
    stepper = EngineStepper(engine_load(canary, n_seq=2, context=512, threads=1))
    try:
        yield stepper
    finally:
        stepper.close()


def test_engine_and_bare_loop_say_the_same(canary: Path, engine: EngineStepper) -> None:
    prompt = tokens.prompt([tasks.user("Repeat: hello 42")])
    rid = engine.submit(prompt, 8)
    said: list[int] = []
    while len(said) < 8:
        said += [t for delta in engine.core.step() if delta.rid == rid for t in delta.tokens]

    with BareLlama(canary, n_ctx=512) as llama:
        assert llama.greedy(prompt, 8) == said


def test_both_grow_every_sequence_by_one_token_a_step(canary: Path, engine: EngineStepper) -> None:
    prompts = [tokens.prompt([tasks.user(text)]) for text in ("Sing!", "Continue: 7 8 9")]
    assert len({len(prompt) for prompt in prompts}) == 2
    prompts = [prompt[:20] for prompt in prompts]
    with BareLlama(canary, n_seq=2, n_ctx=1024) as llama:
        take_turns(engine, BareStepper(llama), prompts, n_steps=6, turn=3)

    assert engine.core.counters.n_output_tokens >= 2 * 6
    assert not engine.core.has_work


def test_the_step_script_prints_every_setting(
    canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = f"{canary} --requests 1 2 --steps 4 --turn 2 --generations 2 --threads 1 --json"
    assert engine_step.main(argv.split()) == 0

    rows = json.loads(capsys.readouterr().out)
    settings = [(row["n_requests"], row["temperature"], row["baseline"]) for row in rows]
    assert len(settings) == len(set(settings)) == 2 * 2 * 2
    assert all(row["ratio"]["low"] <= row["ratio"]["median"] for row in rows)
    assert all(row["bare_ms"] > 0 and row["engine_ms"] > 0 for row in rows)


def test_the_start_is_measured_and_hearthd_is_gone_afterwards(
    canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert startup.main(["--seconds", "0.3", "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert 0 < found["accept_seconds"] <= found["live_seconds"] <= found["ready_seconds"]
    assert found["progress_seen"]
    assert found["rss_bytes"] > 10_000_000
    assert found["models_hung"]["n"] > 1


def test_the_first_tokens_overhead_is_measured(
    canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(canary), "--prompt-tokens", "60", "--chats", "3", "--threads", "1", "--json"]
    assert ttft_overhead.main(argv) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["added"]["n"] == 3
    assert 60 <= found["prompt_tokens"] <= 75


def test_a_daemon_that_does_not_start_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert startup.main(["--set", "no_such_key=1"]) == 2
    assert "no_such_key" in capsys.readouterr().err
