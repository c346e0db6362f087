"""Quantized checkpoints on the ONNX backend: integers taken over to the bit, logits of the same model in float32."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf_runner import Rows, Runner, noise, whole_spec
from numpy.typing import NDArray
from quantized_checkpoints import FORMATS, make_pair

from hearth_backends.base import F32, LoadedModel
from hearth_backends.onnx import quantize
from hearth_backends.onnx.kinds import kind_of
from hearth_backends.onnx.recipe import layer_recipe
from hearth_backends.weights.checkpoint import Checkpoint
from hearth_backends.weights.recipe import head_matrix

pytest.importorskip("onnxruntime")

from onnx_runner import ONNX, NoTokenizer

U8 = NDArray[np.uint8]

TEXT = [token % 64 for token in noise(60, 1)]
KINDS = {
    "awq 128": "uint4-128",
    "awq 32": "uint4-32",
    "awq 64": "uint4-32",
    "gptq 128": "int4-128",
    "gptq 32 zeros": "uint4-32",
    "packed 128": "int4-128",
    "packed 32": "int4-32",
    "packed zeros": "uint4-128",
    "int8": "int8-32",
    "fp8": "int8-32",
}
ROUNDED = 5e-4
"""Mean KL that 8-bit activations may cost (found: 1e-4); 4-bit blocks made anew cost 4e-3 and more."""


def multiplied_by(packed: U8, scales: F32, zeros: U8) -> F32:
    """What MatMulNBits makes of 4-bit blocks."""
    n_out, n_blocks, _ = packed.shape
    integers = np.stack([packed & 15, packed >> 4], axis=3).reshape(n_out, n_blocks, -1)
    points = np.stack([zeros & 15, zeros >> 4], axis=2).reshape(n_out, -1)[:, :n_blocks, None]
    numbers: F32 = (integers.astype(np.float32) - points) * scales[:, :, None]
    return numbers.reshape(n_out, -1)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if "int4" in kind])
def test_groups_are_taken_over_to_the_bit(name: str, tmp_path: Path) -> None:
    path, _, _ = make_pair(tmp_path, *FORMATS[name])
    reader = Checkpoint(path)
    recipe = layer_recipe(reader.spec, 1)
    for matrix in (recipe.qkv, recipe.output, recipe.gate, recipe.down):
        groups = matrix.groups(reader)
        assert groups is not None
        block = int(KINDS[name].rpartition("-")[2])
        found = multiplied_by(*quantize.int4_from_groups(groups, block))
        assert np.array_equal(found, matrix.read(reader))


@pytest.mark.parametrize("block", [32, 96])
def test_8_bit_integers_are_taken_over_to_the_bit(block: int, tmp_path: Path) -> None:
    path, _, _ = make_pair(tmp_path, *FORMATS["int8"])
    reader = Checkpoint(path)
    for matrix in (layer_recipe(reader.spec, 1).qkv, layer_recipe(reader.spec, 1).down):
        channels = matrix.channels(reader)
        assert channels is not None
        integers, scales = quantize.int8_from_channels(channels, block)
        found = ((integers.astype(np.float32) - 128) * scales[:, :, None]).reshape(matrix.n_out, -1)
        assert np.array_equal(found[:, : matrix.n_in], matrix.read(reader))
        assert not found[:, matrix.n_in :].any()


@pytest.mark.parametrize("name", KINDS)
def test_what_file_comes_to(name: str, tmp_path: Path) -> None:
    path, _, _ = make_pair(tmp_path, *FORMATS[name])
    model = Checkpoint(path).spec
    assert kind_of("file", layer_recipe(model, 0).qkv, model) == KINDS[name]
    assert kind_of("file", head_matrix(model), model) == "int8-32"


def distributions(path: Path, kind: str) -> F32:
    """After every token of the text, in chunks and token by token."""
    model = LoadedModel(Checkpoint(path).spec, NoTokenizer())
    with closing(Runner(model, [whole_spec(model, weight_kind=kind)], ONNX)) as runner:
        chunks = [TEXT[:40], *([token] for token in TEXT[40:50]), TEXT[50:]]
        return np.concatenate([runner.step(Rows(0, chunk, len(chunk))) for chunk in chunks])


def divergence(exact: F32, found: F32) -> float:
    return float((np.exp(exact) * (exact - found)).sum(axis=1).mean())


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_those_of_the_same_model_in_float32(name: str, tmp_path: Path) -> None:
    path, plain, _ = make_pair(tmp_path, *FORMATS[name])
    exact = distributions(plain, "fp32")
    assert np.array_equal(distributions(path, "fp32"), exact)
    assert divergence(exact, distributions(path, "file")) < ROUNDED


@pytest.mark.parametrize("name", ["int8", "int8 zeros", "int8 one scale"])
def test_8_bits_for_each_output(name: str, tmp_path: Path) -> None:
    path, plain, _ = make_pair(tmp_path, *FORMATS[name])
    exact = distributions(plain, "fp32")
    assert np.array_equal(distributions(path, "fp32"), exact)
    assert divergence(exact, distributions(path, "int8")) < 2 * ROUNDED
    assert divergence(exact, distributions(path, "file")) < ROUNDED


def test_a_kind_that_is_asked_for_is_made(tmp_path: Path) -> None:
    """Blocks of 32 around 8, from groups of 128 with zero points of their own."""
    path, plain, _ = make_pair(tmp_path, *FORMATS["awq 128"])
    assert np.array_equal(distributions(path, "int4-32"), distributions(plain, "int4-32"))
