"""What goes wrong in the GGUF backend: it is said in words, and the stage stays sound."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hearth_backends.base import LoadedModel
from hearth_backends.errors import (
    CapacityError,
    ModelFileError,
    StepError,
    Unsupported,
)
from hearth_backends.kv.contract import KVOp, OpKind

pytest.importorskip("llama_cpp")

from gguf_runner import MakeGguf, Rows, Runner, cut_specs, load, noise, truncate, whole_spec

from hearth_backends.gguf.vocab import open_gguf


def test_no_room_is_a_capacity_error_that_leaves_all_sound(tiny: LoadedModel) -> None:
    spec = whole_spec(tiny, kv_tokens=256, n_rows=200, n_ctx=256)
    with closing(Runner(tiny, [spec])) as runner:
        tokens = noise(150, 15)
        expected = runner.step(Rows(0, [*tokens, 40]))
        runner.operate(truncate(0, 150))
        with pytest.raises(CapacityError):
            runner.step(Rows(1, noise(150, 16)))
        assert np.abs(runner.step(Rows(0, [40])) - expected).max() < 1e-4
        runner.operate(truncate(0, 0))
        assert np.abs(runner.step(Rows(1, [*tokens, 40])) - expected).max() < 1e-4


@pytest.mark.parametrize("token", [-1, 259])
def test_a_token_that_is_none_fails_its_step_only(tiny_runner: Runner, token: int) -> None:
    tokens = noise(20, 17)
    expected = tiny_runner.step(Rows(0, tokens))
    tiny_runner.operate(truncate(0, 10))
    with pytest.raises(StepError):
        tiny_runner.step(Rows(0, [5, token]), Rows(1, [4]))
    tiny_runner.operate(truncate(0, 10), truncate(1, 0))
    assert np.abs(tiny_runner.step(Rows(0, tokens[10:])) - expected).max() < 1e-4


def test_positions_that_do_not_go_on_are_refused(tiny_runner: Runner) -> None:
    tiny_runner.step(Rows(0, noise(10, 18)))
    tiny_runner.lengths[0] = 8
    with pytest.raises(StepError, match="holds 10 tokens"):
        tiny_runner.step(Rows(0, [1]))
    tiny_runner.lengths[1] = 5
    with pytest.raises(StepError, match="holds 0 tokens"):
        tiny_runner.step(Rows(1, [1]))


def test_batches_that_llama_cpp_would_abort_on_are_refused(tiny_runner: Runner) -> None:
    with pytest.raises(StepError, match="97 rows"):
        tiny_runner.step(Rows(0, noise(97, 19)))
    with pytest.raises(StepError, match="wanted"):
        tiny_runner.step(Rows(0, noise(80, 20), n_wanted=80))
    tiny_runner.lengths.append(0)
    with pytest.raises(StepError, match="row 6"):
        tiny_runner.step(Rows(6, [1]))


def test_states_are_refused_in_words(tiny_runner: Runner) -> None:
    with pytest.raises(Unsupported, match="save states of this model"):
        tiny_runner.step(ops=(KVOp(OpKind.SAVE, 0, 0, 1),))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kv_dtype": "q4_0"}, "not q4_0"),
        ({"kv_dtype": "q8_0"}, "multiple of 32"),
        ({"n_seq": 257}, "at most 256"),
        ({"weight_kind": "int8"}, "as the file stores them"),
        ({"last": 2}, "layers 0 to"),
    ],
)
def test_what_it_does_not_load(tiny: LoadedModel, fields: dict[str, object], words: str) -> None:
    spec = whole_spec(tiny, **fields)
    if words.startswith("layers"):
        spec = replace(spec, first=2)
    with pytest.raises(Unsupported, match=words.replace("layers 0 to", "layers 2 to 2")):
        load(tiny, spec)


def test_a_file_that_changed_since_it_was_described(make_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(make_gguf(seed=3).read_bytes())
    model = open_gguf(str(path))
    path.write_bytes(make_gguf(seed=4).read_bytes())
    with pytest.raises(ModelFileError, match="changed"):
        load(model, cut_specs(model, 2)[0])


def test_what_llama_cpp_cannot_load_is_told_in_its_words(
    make_gguf: MakeGguf, tmp_path: Path
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(make_gguf().read_bytes().replace(b"blk.3.ffn_up", b"blk.3.ffn_UP"))
    model = open_gguf(str(path))
    with pytest.raises(ModelFileError, match=r"odd\.gguf: .*ffn_up"):
        load(model, whole_spec(model))


def test_closing_twice_is_closing(tiny: LoadedModel) -> None:
    stage = load(tiny, whole_spec(tiny))
    stage.close()
    stage.close()
