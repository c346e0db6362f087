"""Files of `bench/models.py`: they load in llama.cpp, and the nested canary speaks as the plain one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

import models
from hearth_backends.canary import tasks, tokens
from hearth_bench.bare import BareLlama
from hearth_bench.blocks import KINDS, random_matrix, rounded, stored
from hearth_bench.nesting import NestedWeights, nested_shape, read_small
from hearth_bench.shapes import SHAPES, Shape
from hearth_bench.vocabulary import made_up

CANARY = models.canary_path()
QUESTIONS = ("Repeat: hello 42", "Continue: 7 8 9", "Who are you?")

NEOX = Shape("neox", "qwen2", 6, 512, 8, 2, 768, 1024, 2048, 1e6, 1e-6, tied=True)
LLAMA = Shape("pairs", "llama", 5, 1024, 8, 4, 704, 1024, 2048, 5e5, 1e-5, tied=False)


@pytest.fixture(scope="module")
def canary_answers() -> list[list[int]]:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    if not CANARY.exists():
        pytest.skip("the canary has not been trained yet")
    return answers(CANARY)


def answers(path: Path) -> list[list[int]]:
    with BareLlama(path, n_ctx=512) as model:
        return [
            model.greedy(tokens.prompt([tasks.user(question)]), 60, tokens.IM_END)
            for question in QUESTIONS
        ]


@pytest.mark.parametrize("shape", [NEOX, LLAMA], ids=lambda shape: shape.name)
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_the_nested_canary_answers_as_the_plain_one(
    shape: Shape, kind: str, tmp_path: Path, canary_answers: list[list[int]]
) -> None:
    path = tmp_path / "nested.gguf"
    models.write_nested(path, shape, kind, CANARY, None)

    assert answers(path) == canary_answers
    assert bytes(canary_answers[0]) == b"hello 42"


def test_tokens_of_the_bigger_vocabulary_cannot_win(
    tmp_path: Path, canary_answers: list[list[int]]
) -> None:
    path = tmp_path / "nested.gguf"
    models.write_nested(path, NEOX, "Q8_0", CANARY, None)

    with BareLlama(path, n_ctx=512) as model, BareLlama(CANARY, n_ctx=512) as plain:
        prompt = tokens.prompt([tasks.user(QUESTIONS[0])])
        model.prefill(0, prompt)
        plain.prefill(0, prompt)
        nested, want = model.logits(len(prompt) - 1), plain.logits(len(prompt) - 1)
        assert nested[tokens.SIZE :].max() < want.min() - 100
        np.testing.assert_allclose(nested[: tokens.SIZE], want, atol=0.5)


def test_in_float32_the_logits_are_the_canarys(
    tmp_path: Path, canary_answers: list[list[int]]
) -> None:
    path = tmp_path / "nested.gguf"
    models.write_nested(path, LLAMA, "F32", CANARY, 2)

    with BareLlama(path, n_ctx=512) as model, BareLlama(CANARY, n_ctx=512) as plain:
        prompt = tokens.prompt([tasks.user(QUESTIONS[0])])
        model.prefill(0, prompt)
        plain.prefill(0, prompt)
        nested, want = model.logits(len(prompt) - 1), plain.logits(len(prompt) - 1)
        np.testing.assert_allclose(nested[: tokens.SIZE], want, atol=0.02)


def test_layers_between_the_canarys_are_noise_that_writes_nothing() -> None:
    if not CANARY.exists():
        pytest.skip("the canary has not been trained yet")
    small = read_small(CANARY)
    shape = nested_shape(small.shape, NEOX)
    weights = NestedWeights(small, shape)
    kind = KINDS["F32"]
    written = {
        place.layer: bool(np.any(weights.tensor(place, kind)))
        for place in shape.places()
        if place.role == "ffn_down"
    }
    noisy = [bool(np.any(weights.tensor(p, kind))) for p in shape.places() if p.role == "attn_q"]

    assert [layer for layer, writes in written.items() if writes] == [0, 2, 3, 4]
    assert all(noisy)


def test_a_shape_without_room_is_refused_in_words() -> None:
    small = replace(NEOX, name="small", architecture="llama")

    with pytest.raises(ValueError, match="no room for small: width"):
        nested_shape(small, NEOX)
    with pytest.raises(ValueError, match="query heads"):
        nested_shape(replace(small, d_model=128), replace(NEOX, n_heads=2))


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0"])
def test_random_weights_load_and_give_finite_varied_logits(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = tmp_path / "random.gguf"
    models.write_random(path, NEOX, kind, None, seed=3)

    with BareLlama(path, n_ctx=256) as model:
        assert model.n_vocab == NEOX.n_vocab
        model.prefill(0, [65, 66, 67])
        logits = model.logits(2)
        assert np.isfinite(logits).all()
        assert 2 < logits.std() < 10


def test_a_vocabulary_is_copied_from_another_file(tmp_path: Path) -> None:
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    models.write_random(first, replace(NEOX, n_vocab=512), "Q4_0", None, seed=0)
    models.write_random(second, NEOX, "Q4_0", first, seed=0)

    one, two = gguf.GGUFReader(first), gguf.GGUFReader(second)

    def contents(reader: gguf.GGUFReader, name: str) -> list[str]:
        return list(reader.fields[name].contents())

    words = contents(two, "tokenizer.ggml.tokens")
    assert words[:512] == contents(one, "tokenizer.ggml.tokens")
    assert words[512:514] == ["[PAD512]", "[PAD513]"]
    assert len(words) == NEOX.n_vocab
    for name in ("tokenizer.ggml.merges", "tokenizer.chat_template"):
        assert two.fields[name].contents() == one.fields[name].contents()


def test_a_made_up_vocabulary_has_no_token_twice() -> None:
    words = made_up(SHAPES["smollm2-135m"].n_vocab).fields["tokenizer.ggml.tokens"].value

    assert len(set(words)) == len(words) == 49152


@pytest.mark.parametrize(("kind", "error"), [("F32", 0.0), ("Q8_0", 0.02), ("Q4_0", 0.2)])
def test_rounding_keeps_rows_of_any_length(kind: str, error: float) -> None:
    weights = np.random.default_rng(0).standard_normal((4, 344), np.float32)

    back = rounded(weights, KINDS[kind])

    assert back.shape == weights.shape
    assert np.abs(back - weights).max() <= error * np.abs(weights).max()


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
def test_random_blocks_have_the_asked_deviation_and_no_mean(kind: str) -> None:
    rng = np.random.default_rng(1)

    weights = random_matrix(rng, (64, 1024), KINDS[kind], 0.05)
    values = gguf.quants.dequantize(weights, KINDS[kind])

    assert weights.nbytes == stored(np.zeros((64, 1024), np.float32), KINDS[kind]).nbytes
    assert values.std() == pytest.approx(0.05, rel=0.05)
    assert abs(values.mean()) < 0.001


def test_the_script_refuses_a_vocabulary_that_is_too_big(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    big = tmp_path / "big.gguf"
    models.write_random(
        big, replace(NEOX, n_vocab=50_000, d_model=64, n_layers=1), "Q4_0", None, seed=0
    )

    assert models.main(["smollm2-135m", str(tmp_path / "out.gguf"), "--vocab", str(big)]) == 2
    assert "do not fit" in capsys.readouterr().err
