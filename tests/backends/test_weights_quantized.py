"""Quantized checkpoints (AWQ, GPTQ, compressed-tensors): their numbers to the bit, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quantized_checkpoints import (
    FORMATS,
    N_LAYERS,
    awq,
    awq_config,
    compressed,
    gptq,
    gptq_config,
    int4_config,
    make_pair,
)

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.checkpoint import Checkpoint
from hearth_backends.weights.quantization_config import scheme_of

UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_are_those_that_were_packed(name: str, tmp_path: Path) -> None:
    path, plain, matrices = make_pair(tmp_path, *FORMATS[name])
    reader = Checkpoint(path)
    assert set(reader.spec.tensors) == set(Checkpoint(plain).spec.tensors)
    some = np.array([5, 0, 77, 78], np.int32)
    for tensor, values in matrices.items():
        assert reader.spec.tensors[tensor].shape == values.shape
        assert np.array_equal(reader.tensor(tensor), values)
        assert np.array_equal(reader.rows(tensor, some), values[some])
    assert reader.rows(f"{UP}.weight", some[:0]).shape == (0, 256)
    n_layer = sum(t.n_bytes for t in reader.spec.tensors.values() if t.layer == 0)
    assert reader.spec.layer_bytes(0, N_LAYERS) == N_LAYERS * n_layer


def test_what_is_said_of_the_numbers(tmp_path: Path) -> None:
    path, _, _ = make_pair(tmp_path, *FORMATS["awq 32"])
    reader = Checkpoint(path)
    assert reader.spec.quantization == "UINT4-32"
    assert reader.spec.tensors["lm_head.weight"].dtype == "F32"
    assert reader.groups("lm_head.weight") is None


def without(path: Path, name: str) -> None:
    """Take a tensor out of the file's header."""
    file = path / "model.safetensors"
    data = file.read_bytes()
    n_header = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n_header])
    del header[name]
    text = json.dumps(header).encode().ljust(n_header)
    file.write_bytes(data[:8] + text + data[8 + n_header :])


@pytest.mark.parametrize(
    ("name", "piece"),
    [
        ("awq 128", "qzeros"),
        ("gptq 128", "qweight"),
        ("gptq 128", "scales"),
        ("packed 128", "weight_packed"),
        ("packed zeros", "weight_zero_point"),
        ("int8", "weight"),
        ("int8 zeros", "weight_zero_point"),
    ],
)
def test_a_piece_that_is_missing_is_named(name: str, piece: str, tmp_path: Path) -> None:
    path, _, _ = make_pair(tmp_path, *FORMATS[name])
    without(path, f"{UP}.{piece}")
    with pytest.raises(ModelFileError) as caught:
        Checkpoint(path)
    assert str(caught.value) == f"{path}: there is no tensor {UP}.{piece}"


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path, _, _ = make_pair(tmp_path, *FORMATS["awq 128"])
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match=f"{file}: truncated: it has"):
        Checkpoint(path)


def test_groups_that_are_not_those_of_the_config(tmp_path: Path) -> None:
    path, _, _ = make_pair(tmp_path, awq_config(128), awq(32))
    with pytest.raises(ModelFileError, match=r"qzeros has the shape \(8, 32\), where \(2, 32\)"):
        Checkpoint(path)


def test_numbers_of_another_type(tmp_path: Path) -> None:
    _, pack = FORMATS["int8"]
    config = compressed("float-quantized", type="float", num_bits=8, strategy="channel")
    path, _, _ = make_pair(tmp_path, config, pack)
    with pytest.raises(ModelFileError, match=r"q_proj\.weight is I8 "):
        Checkpoint(path)


def test_scattered_groups_are_refused(tmp_path: Path) -> None:
    pack = gptq(128, symmetric=True, shuffled=True)
    path, _, _ = make_pair(tmp_path, gptq_config(128, sym=True), pack)
    with pytest.raises(Unsupported, match=f"{UP}.weight: its groups are scattered"):
        Checkpoint(path).tensor(f"{UP}.weight")


def test_a_zero_point_that_readers_do_not_agree_on(tmp_path: Path) -> None:
    pack = gptq(128, symmetric=False, minus=-5)  # 6 to 10 are stored as 11 to 15
    path, _, _ = make_pair(tmp_path, gptq_config(128, sym=False), pack)
    with pytest.raises(Unsupported, match=f"{UP}.weight: a zero point stored as 15"):
        Checkpoint(path).tensor(f"{UP}.weight")


def test_zero_points_against_the_config(tmp_path: Path) -> None:
    path, _, _ = make_pair(tmp_path, gptq_config(128, sym=True), gptq(128, symmetric=False))
    with pytest.raises(ModelFileError, match=f"{UP}.weight: zero points other than 8"):
        Checkpoint(path).tensor(f"{UP}.weight")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"quant_method": "aqlm"}, "quantized by 'aqlm' are not read"),
        ({"bits": 4}, "quantized by None"),
        (awq_config(128, bits=3), "AWQ with 3 bits"),
        (awq_config(-1), "AWQ with groups of -1 is not read; of 32, 64, 128 it is"),
        (awq_config(128, version="gemv"), "AWQ of the version 'gemv'"),
        (gptq_config(128, bits=8), "GPTQ with 8 bits"),
        (gptq_config(1024), "GPTQ with groups of 1024"),
        (gptq_config(128, desc_act=True), "desc_act"),
        (gptq_config(128, checkpoint_format="marlin"), "checkpoint_format 'marlin'"),
        (compressed("nvfp4-pack-quantized", num_bits=4), "format 'nvfp4-pack-quantized'"),
        (compressed("pack-quantized", type="int", num_bits=3), "weights of 3 bits"),
        (compressed("int-quantized", type="float", num_bits=8), r"weights of 8 bits \('float'\)"),
        (
            compressed("float-quantized", type="float", num_bits=8, strategy="block"),
            "strategy 'block'",
        ),
        ({**int4_config(128, True), "sparsity_config": {"format": "sparse-24"}}, "sparse"),
        (
            {
                **int4_config(128, True),
                "config_groups": {"a": {"weights": {}}, "b": {"weights": {}}},
            },
            "2 config_groups",
        ),
    ],
)
def test_what_is_not_read_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        scheme_of(given)


@pytest.mark.parametrize(
    "given",
    [
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {**int4_config(128, True), "config_groups": {"a": 3}},
        gptq_config(128, sym="yes"),
    ],
)
def test_configs_without_sense(given: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        scheme_of(given)


def test_a_config_that_says_nothing() -> None:
    assert scheme_of({}) is None
