"""Exported states of the GGUF backend: they go on elsewhere, and foreign ones are refused."""

from __future__ import annotations

import struct
from contextlib import closing

import numpy as np
import pytest

from hearth_backends.base import LoadedModel
from hearth_backends.errors import (
    StepError,
)
from hearth_backends.kv.contract import Placement

pytest.importorskip("llama_cpp")

from gguf_runner import MakeGguf, Rows, Runner, cut_specs, fork, load, noise, truncate, whole_spec

from hearth_backends.gguf.vocab import open_gguf


def test_an_exported_state_goes_on_in_another_row(tiny_runner: Runner) -> None:
    tokens = noise(40, 24)
    expected = tiny_runner.step(Rows(0, tokens))
    blob = tiny_runner.stages[0].export(Placement(0), 25)
    tiny_runner.operate(truncate(0, 0))
    tiny_runner.step(Rows(0, noise(30, 25)), Rows(3, noise(9, 26)))
    assert tiny_runner.stages[0].restore(Placement(3), blob) == 25
    tiny_runner.lengths[3] = 25
    assert np.abs(tiny_runner.step(Rows(3, tokens[25:])) - expected).max() < 1e-4


def test_states_of_a_cut_model_move_stage_by_stage(tiny: LoadedModel) -> None:
    with closing(Runner(tiny, cut_specs(tiny, 2))) as runner:
        tokens = noise(40, 27)
        expected = runner.step(Rows(0, tokens))
        blobs = [stage.export(Placement(0), 30) for stage in runner.stages]
        for stage, blob in zip(runner.stages, blobs, strict=True):
            assert stage.restore(Placement(5), blob) == 30
        runner.lengths[5] = 30
        assert np.abs(runner.step(Rows(5, tokens[30:])) - expected).max() < 1e-4
        with pytest.raises(StepError, match="another first"):
            runner.stages[1].restore(Placement(4), blobs[0])


def test_foreign_and_damaged_states_are_refused(tiny_runner: Runner) -> None:
    stage = tiny_runner.stages[0]
    tokens = noise(20, 28)
    expected = tiny_runner.step(Rows(0, tokens))
    blob = stage.export(Placement(0), 10)
    flipped = bytearray(blob)
    flipped[-9] ^= 16
    for damaged in (
        b"",
        b"HKV1",
        blob[:-1],
        blob[:40],
        blob + b"\0",
        bytes(flipped),
        noise_bytes(),
    ):
        with pytest.raises(StepError):
            stage.restore(Placement(1), damaged)
    tiny_runner.operate(truncate(0, 12))
    assert np.abs(tiny_runner.step(Rows(0, tokens[12:])) - expected).max() < 1e-4
    with pytest.raises(StepError, match="holds 20 tokens, not 21"):
        stage.export(Placement(0), 21)


def test_a_state_of_another_model_is_refused(make_gguf: MakeGguf, tiny_runner: Runner) -> None:
    tiny_runner.step(Rows(0, noise(20, 29)))
    blob = tiny_runner.stages[0].export(Placement(0), 20)
    other = open_gguf(str(make_gguf(seed=9)))
    with closing(load(other, whole_spec(other))) as stage, pytest.raises(StepError, match="digest"):
        stage.restore(Placement(0), blob)


def noise_bytes() -> bytes:
    return struct.pack("<4sIII", b"HKV1", 2**31, 2**31, 0) + bytes(100)


def test_a_fork_is_exported_once_it_was_computed_on(tiny_runner: Runner) -> None:
    stage = tiny_runner.stages[0]
    tiny_runner.step(Rows(0, noise(20, 33)))
    tiny_runner.operate(fork(0, 1, 12))
    with pytest.raises(StepError, match="no step computed since"):
        stage.export(Placement(1), 12)
    tiny_runner.step(Rows(0, [5]))
    assert stage.restore(Placement(2), stage.export(Placement(1), 12)) == 12
