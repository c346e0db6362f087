"""Tiny quantized checkpoints, packed number by number, and the same model in float32."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = dict[str, tuple[str, Array]]
"""By name the type, as safetensors calls it, and the values."""

D_MODEL, D_FF, N_LAYERS, N_VOCAB = 256, 384, 2, 64

CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": D_MODEL, "intermediate_size": D_FF,
    "num_hidden_layers": N_LAYERS, "num_attention_heads": 8, "num_key_value_heads": 4,
    "max_position_embeddings": 512, "vocab_size": N_VOCAB, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 10000.0, "tie_word_embeddings": False,
}  # fmt: skip

_LINEARS = {
    "self_attn.q_proj": (D_MODEL, D_MODEL),
    "self_attn.k_proj": (D_MODEL // 2, D_MODEL),
    "self_attn.v_proj": (D_MODEL // 2, D_MODEL),
    "self_attn.o_proj": (D_MODEL, D_MODEL),
    "mlp.gate_proj": (D_FF, D_MODEL),
    "mlp.up_proj": (D_FF, D_MODEL),
    "mlp.down_proj": (D_MODEL, D_FF),
}

Pack = Callable[[str, tuple[int, int], np.random.Generator], tuple[Tensors, Array]]
"""Of a matrix's name and shape: pieces of random numbers, and what they stand for in float32."""


def write_safetensors(path: Path, tensors: Tensors) -> None:
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, values) in tensors.items():
        octets = np.ascontiguousarray(values).tobytes()
        place = [len(data), len(data) + len(octets)]
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": place}
        data += octets
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def make_pair(
    folder: Path, quantization: dict[str, Any], pack: Pack
) -> tuple[Path, Path, dict[str, Array]]:
    """A quantized checkpoint, its equal in float32, and the matrices of both in float32."""
    rng = np.random.default_rng(7)
    same: Tensors = {
        "model.embed_tokens.weight": ("F32", _normal(rng, (N_VOCAB, D_MODEL), 1.0)),
        "lm_head.weight": ("F32", _normal(rng, (N_VOCAB, D_MODEL), 0.05)),
        "model.norm.weight": ("F32", np.ones(D_MODEL, np.float32)),
    }
    packed, whole = dict[str, Any](), dict[str, Array]()
    for layer in range(N_LAYERS):
        at = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            same[f"{at}{norm}.weight"] = ("F32", np.ones(D_MODEL, np.float32))
        for name, shape in _LINEARS.items():
            pieces, values = pack(at + name, shape, rng)
            packed |= pieces
            whole[f"{at}{name}.weight"] = values
    quantized, plain = folder / "quantized", folder / "plain"
    for path, tensors, config in (
        (quantized, {**same, **packed}, {**CONFIG, "quantization_config": quantization}),
        (plain, {**same, **{name: ("F32", v) for name, v in whole.items()}}, CONFIG),
    ):
        path.mkdir()
        (path / "config.json").write_text(json.dumps(config))
        write_safetensors(path / "model.safetensors", tensors)
    return quantized, plain, whole


def _normal(rng: np.random.Generator, shape: Sequence[int], size: float) -> Array:
    return (rng.normal(size=shape) * size).astype(np.float32)


def _words(numbers: Array, order: Sequence[int] = range(8)) -> Array:
    """Each eight numbers of the last axis in one word; `order[i]` is which of them goes i-th from below."""
    n, m = numbers.shape
    words = np.zeros((n, m // 8), np.uint32)
    for row in range(n):
        for word in range(m // 8):
            total = 0
            for place, which in enumerate(order):
                total |= int(numbers[row, 8 * word + which]) << (4 * place)
            words[row, word] = total
    return words.view(np.int32)


def _random(
    shape: tuple[int, int], group: int, rng: np.random.Generator, symmetric: bool
) -> tuple[Array, Array, Array, Array]:
    """Integers, zero points, scales (float16), and the numbers they stand for."""
    n_out, n_in = shape
    n_groups = n_in // group
    integers = np.clip(np.rint(rng.normal(size=shape) * 3 + 8), 0, 15).astype(np.int64)
    zeros = np.full((n_out, n_groups), 8, np.int64)
    if not symmetric:
        zeros = rng.integers(6, 11, (n_out, n_groups))
    scales = rng.uniform(0.01, 0.03, (n_out, n_groups)).astype(np.float16)
    numbers = np.zeros(shape, np.float32)
    for at in range(n_groups):
        cut = slice(at * group, (at + 1) * group)
        centred = (integers[:, cut] - zeros[:, at : at + 1]).astype(np.float32)
        numbers[:, cut] = centred * scales[:, at : at + 1].astype(np.float32)
    return integers, zeros, scales, numbers


def awq(group: int) -> Pack:
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def pack(name: str, shape: tuple[int, int], rng: np.random.Generator) -> tuple[Tensors, Array]:
        integers, zeros, scales, numbers = _random(shape, group, rng, symmetric=False)
        return {
            f"{name}.qweight": ("I32", _words(integers.T, order)),
            f"{name}.qzeros": ("I32", _words(zeros.T, order)),
            f"{name}.scales": ("F16", scales.T),
        }, numbers

    return pack


def gptq(group: int, *, symmetric: bool, minus: int = 1, shuffled: bool = False) -> Pack:
    def pack(name: str, shape: tuple[int, int], rng: np.random.Generator) -> tuple[Tensors, Array]:
        integers, zeros, scales, numbers = _random(shape, group, rng, symmetric)
        index = np.arange(shape[1], dtype=np.int32) // group
        return {
            f"{name}.qweight": ("I32", _words(integers).T),
            f"{name}.qzeros": ("I32", _words(zeros.T - minus)),
            f"{name}.scales": ("F16", scales.T),
            f"{name}.g_idx": ("I32", index[::-1] if shuffled else index),
        }, numbers

    return pack


def packed(group: int, *, symmetric: bool, plain_zeros: bool = False) -> Pack:
    def pack(name: str, shape: tuple[int, int], rng: np.random.Generator) -> tuple[Tensors, Array]:
        integers, zeros, scales, numbers = _random(shape, group, rng, symmetric)
        tensors: Tensors = {
            f"{name}.weight_packed": ("I32", _words(integers)),
            f"{name}.weight_scale": ("F16", scales),
            f"{name}.weight_shape": ("I64", np.array(shape)),
        }
        if plain_zeros:
            tensors[f"{name}.weight_zero_point"] = ("I8", (zeros - 8).astype(np.int8))
        elif not symmetric:
            tensors[f"{name}.weight_zero_point"] = ("I32", _words(zeros.T).T)
        return tensors, numbers

    return pack


def int8(*, symmetric: bool = True, one_scale: bool = False) -> Pack:
    def pack(name: str, shape: tuple[int, int], rng: np.random.Generator) -> tuple[Tensors, Array]:
        integers = np.clip(np.rint(rng.normal(size=shape) * 40), -128, 127).astype(np.int8)
        scales = rng.uniform(0.0007, 0.002, (shape[0], 1)).astype(np.float16)
        zeros = np.zeros((shape[0], 1), np.int8)
        if one_scale:
            scales = scales[:1, 0]
        if not symmetric:
            zeros = rng.integers(-20, 20, (shape[0], 1)).astype(np.int8)
        tensors: Tensors = {
            f"{name}.weight_zero_point": ("I8", zeros),
            f"{name}.weight": ("I8", integers),
            f"{name}.weight_scale": ("F16", scales),
            f"{name}.input_scale": ("F16", np.ones(1, np.float16)),
        }
        centred = integers.astype(np.float32) - zeros.astype(np.float32)
        return tensors, centred * scales.astype(np.float32)

    return pack


def fp8() -> Pack:
    def pack(name: str, shape: tuple[int, int], rng: np.random.Generator) -> tuple[Tensors, Array]:
        import torch

        numbers = torch.from_numpy(rng.normal(size=shape) * 40).to(torch.float8_e4m3fn)
        scales = rng.uniform(0.0007, 0.002, (shape[0], 1)).astype(np.float32)
        tensors: Tensors = {
            f"{name}.weight": ("F8_E4M3", numbers.view(torch.uint8).numpy()),
            f"{name}.weight_scale": ("F32", scales),
        }
        return tensors, numbers.to(torch.float32).numpy() * scales

    return pack


def compressed(form: str, **weights: Any) -> dict[str, Any]:
    """A quantization_config of compressed-tensors."""
    return {
        "quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }  # fmt: skip


def gptq_config(group: int, **fields: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False, **fields}


def awq_config(group: int, **fields: Any) -> dict[str, Any]:
    return {
        "quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm",
        "zero_point": True, **fields,
    }  # fmt: skip


def int4_config(group: int, symmetric: bool) -> dict[str, Any]:
    return compressed(
        "pack-quantized", type="int", num_bits=4, strategy="group", group_size=group,
        symmetric=symmetric,
    )  # fmt: skip


FORMATS: dict[str, tuple[dict[str, Any], Pack]] = {
    "awq 128": (awq_config(128), awq(128)),
    "awq 32": (awq_config(32), awq(32)),
    "awq 64": (awq_config(64), awq(64)),
    "gptq 128": (gptq_config(128, sym=True), gptq(128, symmetric=True)),
    "gptq 32 zeros": (gptq_config(32, sym=False), gptq(32, symmetric=False)),
    "gptq v2 zeros": (
        gptq_config(128, sym=False, checkpoint_format="gptq_v2"),
        gptq(128, symmetric=False, minus=0),
    ),
    "gptq v2 called v1": (gptq_config(128, sym=True), gptq(128, symmetric=True, minus=0)),
    "packed 128": (int4_config(128, True), packed(128, symmetric=True)),
    "packed 32": (int4_config(32, True), packed(32, symmetric=True)),
    "packed zeros": (int4_config(128, False), packed(128, symmetric=False)),
    "packed plain zeros": (
        int4_config(32, False),
        packed(32, symmetric=False, plain_zeros=True),
    ),
    "int8": (
        compressed("int-quantized", type="int", num_bits=8, strategy="channel", symmetric=True),
        int8(),
    ),
    "int8 zeros": (
        compressed("int-quantized", type="int", num_bits=8, strategy="channel", symmetric=False),
        int8(symmetric=False),
    ),
    "int8 one scale": (
        compressed("int-quantized", type="int", num_bits=8, strategy="tensor", symmetric=True),
        int8(one_scale=True),
    ),
    "fp8": (
        compressed("float-quantized", type="float", num_bits=8, strategy="channel"),
        fp8(),
    ),
}
"""What config.json says, and how matrices are packed."""
