"""Tests and measurements of a device: the reference is right, faults are found, figures are sane."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hearth_backends.base import Sampled, TopLogprobs
from hearth_backends.canary.reference import reference_logprobs
from hearth_backends.errors import Unsupported
from hearth_backends.registry import open_model
from hearthd.engine.checkup import calibration, memory, selftest
from hearthd.engine.checkup.bench import Bench, Rows, opened

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")


@pytest.fixture(scope="module")
def sound() -> Iterator[Bench]:
    with opened("gguf", "cpu:0", "builtin:canary", threads=1, n_rows=256) as found:
        yield found


class Wrong(Bench):
    """A device that gets some numbers wrong."""

    def __init__(self, right: Bench, error: float, *, every: int = 1, flip: bool = False) -> None:
        super().__init__(right._stage, right.model, right.device, right.need)
        self._error, self._every, self._flip = error, every, flip
        self._n_steps = 0

    def step(self, *rows: Rows, n_best: int = 1) -> Sampled:
        right = super().step(*rows, n_best=n_best)
        self._n_steps += 1
        if self._n_steps % self._every:
            return right
        top = tuple(
            t if t is None else TopLogprobs(t.tokens, t.logprobs + np.float32(self._error))
            for t in right.top
        )
        tokens = right.tokens ^ 1 if self._flip else right.tokens
        return Sampled(tokens, right.logprobs, top)


def test_the_reference_is_sure_of_the_answer() -> None:
    model = open_model("builtin:canary")
    prompt = "<|im_start|>user\nAre you awake?<|im_end|>\n<|im_start|>assistant\nYes, I am"
    tokens = model.tokenizer.encode(prompt, add_special=False, parse_special=True)
    last = reference_logprobs(model.spec, tokens)[-1]
    assert int(last.argmax()) == ord(" ")
    assert np.exp(last).sum() == pytest.approx(1)


def test_a_sound_device_passes(sound: Bench) -> None:
    assert selftest.answers(sound) == ("passed", "10 exact answers")
    assert selftest.numbers(sound)[0] == "passed"
    assert selftest.twice(sound) == ("passed", "the same bits twice")


def test_a_wrong_token_is_found(sound: Bench) -> None:
    outcome, detail = selftest.answers(Wrong(sound, 0.0, every=7, flip=True))
    assert outcome == "failed"
    assert "instead of" in detail


@pytest.mark.parametrize("error", [0.05, float("nan")])
def test_a_wrong_number_is_found(sound: Bench, error: float) -> None:
    assert selftest.numbers(Wrong(sound, error))[0] == "failed"


def test_a_device_that_changes_its_mind_is_found(sound: Bench) -> None:
    assert selftest.twice(Wrong(sound, 1e-6, every=2))[0] == "failed"


def test_memory_that_forgets_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.find_bad_words(1 << 20) == (0, 1 << 20)
    empty = np.empty

    class Sticky(np.ndarray[Any, Any]):
        """One word that cannot be written."""

        def fill(self, value: Any) -> None:
            super().fill(value)
            self[5] = 7

    monkeypatch.setattr(np, "empty", lambda *shape: empty(*shape).view(Sticky))
    bad, _ = memory.find_bad_words(1 << 20)
    assert bad == 3


def test_a_yardstick_is_computed_on_every_backend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(calibration, "MEASURE_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(calibration, "PROMPT_ROWS", (64,))
    found = calibration.calibrate("gguf", "cpu:0", threads=1, folder=tmp_path)
    assert set(found.layer_seconds) == {1, 8, 64}
    assert all(seconds > 0 for seconds in found.layer_seconds.values())
    assert found.weights_bytes_per_second == pytest.approx(
        found.layer_bytes / found.layer_seconds[1]
    )
    assert (found.copy_bytes_per_second or 0) > 1e8
    assert (found.disk_bytes_per_second or 0) > 1e6


def test_a_folder_that_is_not_there_has_no_rate(tmp_path: Path) -> None:
    assert calibration.disk_read_rate(tmp_path / "absent") is None


def _child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "hearthd.engine", *arguments]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    report: dict[str, Any] = json.loads(output)
    return report


def test_the_child_reports() -> None:
    found = _child("--selftest", "gguf", "cpu:0")["selftest"]
    assert found["passed"]
    assert [check["name"] for check in found["checks"]] == [
        "load", "answers", "numbers", "twice", "memory", "bandwidth",
    ]  # fmt: skip
    assert found["copy_bytes_per_second"] > 1e8


@pytest.mark.parametrize(
    ("pair", "words"),
    [(("sim", "cpu:0"), "only models called sim"), (("gguf", "cuda:7"), "no device 'cuda:7'")],
)
def test_the_child_says_why_a_pair_is_none(pair: tuple[str, str], words: str) -> None:
    assert words in _child("--selftest", *pair)["unsupported"]


def test_a_backend_without_its_device_is_refused() -> None:
    with (
        pytest.raises(Unsupported, match="no device 'gpu:9'"),
        opened("gguf", "gpu:9", "builtin:canary", threads=1),
    ):
        pass
