"""Quantized weights on the paged backend: a file's numbers to the bit, and how far kinds made anew are from float32."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf_runner import MakeGguf, Rows, Runner, noise
from quantized_checkpoints import FORMATS, make_pair

from hearth_backends.base import F32, LoadedModel
from hearth_backends.errors import Unsupported
from hearth_backends.weights.checkpoint import Checkpoint
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.recipe import head_matrix, layer_recipe

pytest.importorskip("torch")

from cuda_runner import in_chunks, paged_whole
from onnx_runner import NoTokenizer, canary

from hearth_backends.cuda.precision import Precision, precision_of

TEXT = [token % 64 for token in noise(70, 1)]
STORED = {
    "awq 128": "int4-128",
    "awq 64": "int4-64",
    "gptq 32 zeros": "int4-32",
    "packed zeros": "int4-128",
    "int8": "int8",
    "fp8": "fp8",
}
SAME = 1e-4
ROUNDED = 1e-3
"""Mean KL that activations in 8 bits may cost."""
DISTANCE = {
    "fp16": 1e-4,
    "bf16": 5e-3,
    "fp8": 0.02,
    "int8": 5e-3,
    "int4-32": 0.25,
    "int4-128": 0.25,
}
"""Mean KL of the canary's own words, at most, from those in float32."""


def _mostly_slow(names: Iterable[str], *fast: str) -> list[object]:
    """All but a few, which tell almost as much, are left to `make test`."""
    return [pytest.param(n, marks=[] if n in fast else [pytest.mark.slow]) for n in names]


def distributions(path: Path, weights: str) -> F32:
    model = LoadedModel(Checkpoint(path).spec, NoTokenizer())
    with closing(paged_whole(model, weights)) as runner:
        return in_chunks(runner, TEXT)


def divergence(exact: F32, found: F32) -> float:
    return float((np.exp(exact) * (exact - found)).sum(axis=1).mean())


def on_cpu(weights: str) -> Precision:
    return precision_of(weights, "f32", is_cpu=True, has_bf16=False, reads_fp8=True)


@pytest.mark.parametrize("name", _mostly_slow(STORED, "awq 128", "fp8"))
def test_numbers_of_a_checkpoint_are_taken_over(name: str, tmp_path: Path) -> None:
    path, plain, _ = make_pair(tmp_path, *FORMATS[name])
    model = Checkpoint(path).spec
    for matrix in (layer_recipe(model, 0).qkv, layer_recipe(model, 1).down):
        assert on_cpu("file").kind_of(matrix, model) == STORED[name]
    assert on_cpu("file").kind_of(head_matrix(model), model) == "fp32"
    exact, found = distributions(plain, "fp32"), distributions(path, "file")
    if STORED[name] == "int8":
        assert divergence(exact, found) < ROUNDED
    else:
        assert np.abs(found - exact).max() < SAME


@pytest.mark.parametrize("quant", ["Q4_0", "Q8_0", "Q5_1"])
def test_blocks_of_a_gguf_file(quant: str, make_gguf: MakeGguf) -> None:
    """Q4_0 stays as it is, the others are floats: both are the file's numbers."""
    pytest.importorskip("llama_cpp")
    from hearth_backends.gguf.vocab import open_gguf

    model = open_gguf(str(make_gguf(architecture="llama", quant=quant)))
    kind = on_cpu("file").kind_of(layer_recipe(model.spec, 0).qkv, model.spec)
    assert kind == ("int4-32" if quant == "Q4_0" else "fp32")
    with closing(paged_whole(model, "file")) as ours, closing(paged_whole(model)) as exact:
        assert np.abs(in_chunks(ours, TEXT) - in_chunks(exact, TEXT)).max() < SAME


@pytest.mark.parametrize("kind", _mostly_slow(DISTANCE, "int8", "int4-128"))
def test_how_far_a_kind_is_from_float32(kind: str) -> None:
    model = canary()
    with closing(paged_whole(model)) as runner:
        prompt = model.tokenizer.encode("the quick brown", add_special=True, parse_special=False)
        text = prompt + runner.greedy(0, prompt, 40)
        exact = _whole(runner, text)
    with closing(paged_whole(model, kind)) as runner:
        assert 0 < divergence(exact, _whole(runner, text)) < DISTANCE[kind]


def _whole(runner: Runner, text: list[int]) -> F32:
    return runner.step(Rows(1, text, len(text)))


@pytest.mark.parametrize(("kv_dtype", "most"), [("f16", 1e-4), ("fp8", 0.1)])
def test_keys_and_values_in_fewer_bits(kv_dtype: str, most: float) -> None:
    model = canary()
    with (
        closing(paged_whole(model)) as exact,
        closing(paged_whole(model, kv_dtype=kv_dtype)) as runner,
    ):
        text = model.tokenizer.encode("hello there, how are", add_special=True, parse_special=False)
        assert 0 < divergence(in_chunks(exact, text * 3), in_chunks(runner, text * 3)) < most


def test_what_is_kept_in_floating_point(tmp_path: Path) -> None:
    """The head, and matrices whose inputs are not whole groups."""
    _, plain, _ = make_pair(tmp_path, *FORMATS["int8"])
    model = Checkpoint(plain).spec
    recipe = layer_recipe(model, 0)
    assert on_cpu("int4-128").kind_of(recipe.down, model) == "int4-128"
    assert on_cpu("int4-128").kind_of(head_matrix(model), model) == "fp32"
    assert open_reader(model).groups("model.layers.0.mlp.down_proj.weight") is None


@pytest.mark.parametrize(("weights", "kv_dtype"), [("int3", "f16"), ("fp32", "q8_0")])
def test_kinds_that_there_are_not_are_refused_with_those_that_there_are(
    weights: str, kv_dtype: str
) -> None:
    with pytest.raises(Unsupported, match=r"int4-128|f16, f32, fp8"):
        precision_of(weights, kv_dtype, is_cpu=True, has_bf16=False, reads_fp8=True)
