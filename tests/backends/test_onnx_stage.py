"""OnnxStage: the same tokens as llama.cpp, no influence of neighbours, rows that move, fork and fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf_runner import Array, Rows, Runner, cut_specs, fork, noise, truncate, whole_spec

from hearth_backends.base import LoadedModel, Stage
from hearth_backends.errors import ForeignState, StepError, Unsupported
from hearth_backends.kv.contract import Placement

pytest.importorskip("onnxruntime")
pytest.importorskip("llama_cpp")

from onnx_runner import ONNX, canary, onnx_runner

SAME = 1e-4
"""Of log-probabilities in float32, whatever the order of sums."""


@pytest.mark.parametrize("text", ["12 13 14", "the quick brown", "hello there, "])
def test_greedy_tokens_of_the_canary_are_those_of_llama_cpp(text: str) -> None:
    model = canary()
    prompt = model.tokenizer.encode(text, add_special=True, parse_special=False)
    theirs, ours = Runner(model, [whole_spec(model)]), onnx_runner(model)
    assert ours.greedy(0, prompt, 60) == theirs.greedy(0, prompt, 60)
    theirs.close()
    ours.close()


def test_sixty_greedy_tokens_of_a_story_are_those_of_llama_cpp(lily: LoadedModel) -> None:
    prompt = lily.tokenizer.encode("Once upon a time", add_special=True, parse_special=False)
    theirs, ours = Runner(lily, [whole_spec(lily)]), onnx_runner(lily)
    assert ours.greedy(0, prompt, 60) == theirs.greedy(0, prompt, 60)
    theirs.close()
    ours.close()


DISTANCE = {  # of each kind from float32: mean KL, share of equal best tokens
    "int8-32": (0.001, 0.98),
    "int8": (0.0015, 0.97),
    "fp16": (1e-4, 0.98),
    "int4-32": (0.09, 0.80),
    "int4-128": (0.12, 0.80),
}


@pytest.mark.parametrize("kind", DISTANCE)
def test_how_far_a_kind_is_from_float32(lily: LoadedModel, kind: str) -> None:
    prompt = lily.tokenizer.encode("Once upon a time", add_special=True, parse_special=False)
    reference = onnx_runner(lily)
    text = prompt + reference.greedy(0, prompt, 50)
    exact = reference.step(Rows(1, text, len(text)))
    reference.close()
    runner = onnx_runner(lily, kind)
    found = runner.step(Rows(0, text, len(text)))
    runner.close()
    kl = float((np.exp(exact) * (exact - found)).sum(axis=1).mean())
    top_1 = float((exact.argmax(axis=1) == found.argmax(axis=1)).mean())
    most, least = DISTANCE[kind]
    assert kl < most
    assert top_1 >= least


def test_how_far_8_bit_keys_and_values_are_from_float32(
    lily: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTH_CACHE", str(tmp_path))
    text = lily.tokenizer.encode(TALE, add_special=True, parse_special=False)[:60]
    runner = onnx_runner(lily)
    exact = runner.step(Rows(1, text, len(text)))
    runner.close()
    for n_kept in (0, 1):
        assert len(list(tmp_path.glob("onnx/*.scales"))) == n_kept
        runner = onnx_runner(lily, kv_dtype="q8_0")
        found = np.concatenate(
            [runner.step(Rows(0, text[:40], 40)), runner.step(Rows(0, text[40:], 20))]
        )
        runner.close()
        assert float((np.exp(exact) * (exact - found)).sum(axis=1).mean()) < 0.001


TALE = (
    "One day, a big dog named Max saw a red ball in the park. He was very happy and ran to his friend. "
    "They played all day and then went home to sleep."
)


def test_states_of_8_bit_keys_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_CACHE", str(tmp_path))
    model, text = canary(), noise(30, 9)
    runner = onnx_runner(model, kv_dtype="q8_0")
    expected = runner.step(Rows(0, text[:20]), Rows(1, text, 11))[1:]
    blob = runner.stages[0].export(Placement(0), 20)
    assert len(blob) < 2 * 20 * model.spec.n_layers * 2 * model.spec.n_kv_heads * 32
    runner.stages[0].restore(Placement(4), blob)
    runner.lengths[4] = 20
    runner.operate(fork(4, 2, 20))
    found = runner.step(Rows(2, text[20:], 10))
    assert np.abs(found - expected[1:]).max() < 0.2
    runner.close()


def test_parts_of_models_have_no_8_bit_keys_and_values() -> None:
    model = canary()
    with pytest.raises(Unsupported, match="letting the whole model write"):
        Runner(model, cut_specs(model, 2, weight_kind="fp32", kv_dtype="q8_0"), ONNX)


@pytest.mark.parametrize(
    ("kind", "kv_dtype"),
    [("fp32", "f32"), ("int8", "f32"), ("int8-32", "f32"), ("int4-32", "f32"), ("int8", "q8_0")],
)
def test_neighbours_change_no_bit_of_a_row(
    kind: str, kv_dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTH_CACHE", str(tmp_path))
    model = canary()
    texts = [noise(50, seed) for seed in range(8)]
    alone: list[Array] = []
    for n in (1, 2, 4, 8):
        runner = onnx_runner(model, kind, n_seq=8, kv_dtype=kv_dtype)
        lengths = [6 + 3 * i for i in range(n)]
        for i in range(n):
            runner.step(Rows(i, texts[i][: lengths[i]]))
        steps = []
        for _ in range(15):
            rows = [Rows(i, [texts[i][lengths[i]]]) for i in range(n)]
            steps.append(runner.step(*rows)[0])
            lengths = [length + 1 for length in lengths]
        runner.close()
        if n == 1:
            alone = steps
        for step, expected in zip(steps, alone, strict=True):
            assert np.array_equal(step, expected)


def test_rows_that_are_scattered_are_brought_together() -> None:
    model = canary()
    texts = [noise(30, seed) for seed in range(6)]
    runner = onnx_runner(model)
    for i in range(6):
        runner.step(Rows(i, texts[i][:10]))
    expected = [_alone(texts[i][:20]) for i in range(6)]
    at = [10] * 6
    for rows in (
        [5, 0],
        [1, 4],
        [2],
        [3, 5, 1],
        [0, 2, 4],
        [5, 3, 1],
        [4, 0, 2],
        [0, 1, 2, 3, 4, 5],
    ):
        found = runner.step(*(Rows(row, [texts[row][at[row]]]) for row in rows))
        for row, values in zip(rows, found, strict=True):
            assert np.abs(values - expected[row][at[row]]).max() < SAME
            at[row] += 1
    runner.close()


def test_chunks_decodes_and_long_prompts_in_one_step() -> None:
    model = canary()
    long, short = noise(300, 1), noise(12, 2)
    runner = onnx_runner(model, n_ctx=512, n_rows=512)
    runner.step(Rows(3, short[:-1]))
    found = runner.step(Rows(0, long[:290], 3), Rows(3, short[-1:]), Rows(1, short, 2))
    expected_long, expected_short = _alone(long[:290]), _alone(short)
    assert np.abs(found[:3] - expected_long[-3:]).max() < SAME
    assert np.abs(found[3] - expected_short[-1]).max() < SAME
    assert np.abs(found[4:] - expected_short[-2:]).max() < SAME
    runner.close()


def test_forks_and_truncations() -> None:
    runner = onnx_runner(canary())
    text = noise(30, 3)
    expected = _alone(text)
    runner.step(Rows(0, text[:20]))
    runner.operate(fork(0, 4, 12), truncate(0, 15))
    found = runner.step(Rows(4, text[12:14]), Rows(0, text[15:17], 2))
    assert np.abs(found - expected[[13, 15, 16]]).max() < SAME
    runner.operate(truncate(4, 0))
    assert np.abs(runner.step(Rows(4, text[:5], 5)) - expected[:5]).max() < SAME
    runner.close()


def test_two_stages_compute_what_one_does() -> None:
    model = canary()
    whole = onnx_runner(model)
    parts = Runner(model, cut_specs(model, 1, 3, weight_kind="fp32"), ONNX)
    text = noise(20, 4)
    assert np.abs(whole.step(Rows(0, text, 20)) - parts.step(Rows(0, text, 20))).max() < SAME
    rows = [Rows(0, [7]), Rows(2, text[:4]), Rows(3, [9])]
    assert np.abs(whole.step(*rows) - parts.step(*rows)).max() < SAME
    whole.close()
    parts.close()


def test_a_state_goes_from_row_to_row_and_from_stage_to_stage() -> None:
    model = canary()
    text = noise(30, 5)
    source, target = onnx_runner(model), onnx_runner(model)
    source.step(Rows(2, text[:25]))
    blob = source.stages[0].export(Placement(2), 20)
    assert target.stages[0].restore(Placement(5), blob, 18) == 18
    target.lengths[5] = 18
    assert np.abs(target.step(Rows(5, text[18:20], 2)) - _alone(text)[18:20]).max() < SAME
    source.close()
    target.close()


def test_states_of_others_are_refused() -> None:
    model = canary()
    first, second = onnx_runner(model), onnx_runner(model, "int8")
    first.step(Rows(0, noise(9, 6)))
    blob = first.stages[0].export(Placement(0), 9)
    assert first.stages[0].state_kind() != second.stages[0].state_kind()
    with pytest.raises(ForeignState, match="another version"):
        second.stages[0].restore(Placement(0), blob)
    with pytest.raises(ForeignState, match="damaged"):
        first.stages[0].restore(Placement(0), blob[:-1] + b"!")
    with pytest.raises(StepError, match="holds 9 tokens, not 10"):
        first.stages[0].export(Placement(0), 10)
    first.close()
    second.close()


def test_a_step_that_cannot_be_is_refused_and_changes_nothing() -> None:
    model = canary()
    runner = onnx_runner(model, n_ctx=32)
    text = noise(40, 7)
    runner.step(Rows(0, text[:10]))
    for rows, words in (
        (Rows(0, text[:23]), "room for 32 tokens"),
        (Rows(1, [model.spec.n_vocab]), "not one of"),
        (Rows(1, [-1]), "not one of"),
    ):
        with pytest.raises(StepError, match=words):
            runner.step(rows)
    stage = runner.stages[0]
    runner.lengths[0] = 9
    with pytest.raises(StepError, match="holds 10 tokens, the batch goes on at 9"):
        runner.step(Rows(0, text[9:10]))
    runner.lengths[0] = 10
    assert np.abs(runner.step(Rows(0, text[10:11])) - _alone(text)[10]).max() < SAME
    _empty_step(stage)
    runner.close()
    runner.close()


def test_what_it_does_not_load() -> None:
    model = canary()
    for fields, words in (
        ({"weight_kind": "int3"}, "no weights of the kind 'int3'; it knows file, fp32"),
        ({"kv_dtype": "f8"}, "keeps keys and values in f16, f32, q8_0, not f8"),
        ({"last": 9}, "layers 0 to 9 of 4"),
    ):
        with pytest.raises(Unsupported, match=words):
            Runner(model, [whole_spec(model, **fields)], ONNX)


def test_a_prompt_that_wants_nothing_gives_nothing() -> None:
    for kind in ("fp32", "int8", "int4-32"):
        runner = onnx_runner(canary(), kind)
        assert runner.step(Rows(0, noise(5, 8), 0)).shape[0] == 0
        runner.close()


def _empty_step(stage: Stage) -> None:
    runner_batch = onnx_runner(canary())
    batch = runner_batch.batch([])
    runner_batch.close()
    result = stage.poll(stage.submit(batch, None))
    assert not isinstance(result, np.ndarray)
    assert result is not None
    assert len(result.tokens) == 0


def _alone(text: list[int]) -> Array:
    """Distributions after every token of a text, computed token by token in row 0 of llama.cpp."""
    model = canary()
    runner = Runner(model, [whole_spec(model, n_ctx=512, n_rows=512, kv_tokens=512)])
    found = np.stack([runner.step(Rows(0, [token]))[0] for token in text])
    runner.close()
    return found
