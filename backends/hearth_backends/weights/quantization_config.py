"""What a checkpoint's config.json says of how its matrices are quantized; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hearth_backends.errors import ModelFileError, Unsupported

Layout: TypeAlias = Literal["awq", "gptq", "packed", "int8", "fp8"]
"""How a matrix lies in the file; the last three are formats of compressed-tensors."""

GROUPS = (32, 64, 128)
"""Numbers of inputs that may share a scale."""

_LAYOUTS: Mapping[str, Layout] = {
    "pack-quantized": "packed",
    "int-quantized": "int8",
    "float-quantized": "fp8",
}
_NUMBERS: Mapping[Layout, tuple[str, int]] = {
    "packed": ("int", 4),
    "int8": ("int", 8),
    "fp8": ("float", 8),
}
"""Of each format, the type and the bits that are read."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One for all quantized matrices of a checkpoint."""

    layout: Layout
    group: int | None  # inputs that share a scale; None: all of an output
    symmetric: bool  # the zero point is the middle, 8 of 4 bits
    zero_offset: int = 0  # to be added to zero points as they are stored

    @property
    def dtype(self) -> str:
        """As TensorInfo names it: "INT4-128", with zero points of their own "UINT4-128"; "INT8"; "F8_E4M3"."""
        if self.group is None:
            return "INT8" if self.layout == "int8" else "F8_E4M3"
        return f"{'INT4' if self.symmetric else 'UINT4'}-{self.group}"


def scheme_of(given: Mapping[str, Any]) -> Scheme | None:
    """The scheme of a `quantization_config`; None of an empty one; raises Unsupported, ModelFileError."""
    method = given.get("quant_method")
    if not given:
        return None
    if method == "awq":
        return _awq(given)
    if method == "gptq":
        return _gptq(given)
    if method == "compressed-tensors":
        return _compressed(given)
    raise Unsupported(
        f"checkpoints quantized by {method!r:.40} are not read; by awq, gptq and compressed-tensors they are"
    )


def _awq(given: Mapping[str, Any]) -> Scheme:
    _four_bits("AWQ", given.get("bits", given.get("w_bit")))
    version = given.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise Unsupported(f"AWQ of the version {version!r:.40} is not read; 'gemm' is")
    group = given.get("group_size", given.get("q_group_size"))
    return Scheme("awq", _group("AWQ", group), symmetric=False)


def _gptq(given: Mapping[str, Any]) -> Scheme:
    _four_bits("GPTQ", given.get("bits"))
    if given.get("desc_act"):
        raise Unsupported(
            "GPTQ with desc_act (act-order) is not read: its groups are scattered over the inputs"
        )
    stored = given.get("checkpoint_format") or "gptq"
    if stored not in ("gptq", "gptq_v2"):
        raise Unsupported(
            f"GPTQ in the checkpoint_format {stored!r:.40} is not read; 'gptq' and 'gptq_v2' are"
        )
    return Scheme(
        "gptq",
        _group("GPTQ", given.get("group_size")),
        symmetric=_flag(given, "sym", default=True),
        zero_offset=1 if stored == "gptq" else 0,
    )


def _compressed(given: Mapping[str, Any]) -> Scheme:
    groups = given.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        raise ModelFileError("config.json: quantization_config has no config_groups")
    if len(groups) > 1:
        raise Unsupported(f"compressed-tensors with {len(groups)} config_groups; one is read")
    (only,) = groups.values()
    if not isinstance(only, dict) or not isinstance(only.get("weights"), dict):
        raise ModelFileError("config.json: config_groups says nothing of weights")
    sparsity = given.get("sparsity_config") or {}
    if isinstance(sparsity, dict) and sparsity.get("format", "dense") != "dense":
        raise Unsupported("compressed-tensors with sparse matrices are not read")
    name = only.get("format") or given.get("format")
    layout = _LAYOUTS.get(name) if isinstance(name, str) else None
    if layout is None:
        raise Unsupported(
            f"compressed-tensors in the format {name!r:.40} are not read; {', '.join(_LAYOUTS)} are"
        )
    return _compressed_scheme(layout, str(name), only["weights"])


def _compressed_scheme(layout: Layout, name: str, weights: Mapping[str, Any]) -> Scheme:
    kind, bits = weights.get("type", "int"), weights.get("num_bits")
    if (kind, bits) != _NUMBERS[layout]:
        known, known_bits = _NUMBERS[layout]
        raise Unsupported(
            f"{name} weights of {bits!r:.20} bits ({kind!r:.20}) are not read; {known_bits} ({known}) are"
        )
    strategy = weights.get("strategy") or ("group" if weights.get("group_size") else "channel")
    symmetric = _flag(weights, "symmetric", default=True)
    if layout == "fp8" and not symmetric:
        raise Unsupported(f"{name} weights with zero points are not read")
    if layout == "packed" and strategy == "group":
        if weights.get("actorder") == "group":
            raise Unsupported(f"{name} weights with actorder 'group' are not read")
        return Scheme(layout, _group(name, weights.get("group_size")), symmetric)
    if layout != "packed" and strategy in ("channel", "tensor"):
        return Scheme(layout, None, symmetric)
    raise Unsupported(f"{name} weights with the strategy {strategy!r:.40} are not read")


def _four_bits(what: str, bits: object) -> None:
    if bits != 4:
        raise Unsupported(f"{what} with {bits!r:.20} bits is not read; with 4 it is")


def _group(what: str, size: object) -> int:
    if not isinstance(size, int) or size not in GROUPS:
        raise Unsupported(
            f"{what} with groups of {size!r:.20} is not read; of {', '.join(map(str, GROUPS))} it is"
        )
    return size


def _flag(given: Mapping[str, Any], key: str, *, default: bool) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise ModelFileError(f"config.json: {key} of the quantization = {value!r:.40}")
    return value
