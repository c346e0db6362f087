"""Plan: which matrices of a model are quantized and how, and what the checkpoint's files will hold; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from hearth_backends.errors import Unsupported
from hearth_backends.quantizing.shards import Entry
from hearth_backends.weights.quantization_config import GROUPS
from hearth_backends.weights.spec import ModelSpec, TensorInfo

Kind: TypeAlias = Literal["int4", "int8", "fp8"]
KINDS: tuple[Kind, ...] = ("int4", "int8", "fp8")

_FORMATS: Mapping[Kind, str] = {
    "int4": "pack-quantized",
    "int8": "int-quantized",
    "fp8": "float-quantized",
}
_KEPT_TYPES = ("F32", "F16", "BF16")
_ROTATION = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors of GGUF files that config.json stands for."""


@dataclass(frozen=True, slots=True)
class Target:
    """What weights are to become."""

    kind: Kind
    symmetric: bool = True  # of int4: whether every group's zero point is the middle
    group: int | None = None  # of int4: inputs that share a scale; None: what fits the model


@dataclass(frozen=True, slots=True)
class Plan:
    """Of one model."""

    target: Target  # its group is a number where the kind has groups
    quantized: frozenset[str]  # canonical names of tensors
    kept: tuple[str, ...]  # matrices of layers whose inputs are not whole groups
    tensors: tuple[TensorInfo, ...]  # in the order of the files

    def entries(self) -> list[Entry]:
        """What the files will hold."""
        return [entry for tensor in self.tensors for entry in self.entries_of(tensor)]

    def entries_of(self, tensor: TensorInfo) -> list[Entry]:
        """The pieces of one tensor, in the order in which they are written."""
        if tensor.name not in self.quantized:
            return [Entry(tensor.name, kept_type(tensor), tensor.shape)]
        stem = tensor.name.removesuffix(".weight")
        n_out, n_in = tensor.shape
        if self.target.kind != "int4":
            dtype = "I8" if self.target.kind == "int8" else "F8_E4M3"
            scales = Entry(f"{stem}.weight_scale", "F16", (n_out, 1))
            return [Entry(f"{stem}.weight", dtype, tensor.shape), scales]
        n_groups = n_in // group_of(self.target)
        pieces = [
            Entry(f"{stem}.weight_packed", "I32", (n_out, n_in // 8)),
            Entry(f"{stem}.weight_scale", "F16", (n_out, n_groups)),
            Entry(f"{stem}.weight_shape", "I64", (2,)),
        ]
        if not self.target.symmetric:
            pieces.append(Entry(f"{stem}.weight_zero_point", "I32", (-(-n_out // 8), n_groups)))
        return pieces

    def quantization_config(self) -> dict[str, Any]:
        """In the words of compressed-tensors."""
        weights: dict[str, Any] = {
            "num_bits": 4 if self.target.kind == "int4" else 8,
            "type": "float" if self.target.kind == "fp8" else "int",
            "symmetric": self.target.symmetric or self.target.kind != "int4",
            "strategy": "group" if self.target.kind == "int4" else "channel",
            "group_size": self.target.group,
            "dynamic": False,
            "actorder": None,
        }
        activations = {
            "num_bits": 8, "type": weights["type"], "symmetric": True, "strategy": "token",
            "dynamic": True,
        }  # fmt: skip
        group = {
            "targets": ["Linear"],
            "weights": weights,
            "input_activations": None if self.target.kind == "int4" else activations,
            "output_activations": None,
        }
        return {
            "quant_method": "compressed-tensors",
            "format": _FORMATS[self.target.kind],
            "quantization_status": "compressed",
            "kv_cache_scheme": None,
            "ignore": ["lm_head", *(name.removesuffix(".weight") for name in self.kept)],
            "config_groups": {"group_0": group},
        }


def group_of(target: Target) -> int:
    """Of a plan's target; raises ValueError where it has none."""
    if target.group is None:
        raise ValueError(f"{target.kind} has no groups")
    return target.group


def kept_type(tensor: TensorInfo) -> str:
    """Of a tensor that is not quantized: its own type, float32 of vectors, else float16."""
    if tensor.dtype in _KEPT_TYPES:
        return tensor.dtype
    return "F16" if len(tensor.shape) == 2 else "F32"


def plan(model: ModelSpec, target: Target) -> Plan:
    """Raises Unsupported where no matrix can be quantized so."""
    tensors = [t for t in model.tensors.values() if t.name not in _ROTATION]
    tensors.sort(key=lambda t: (t.layer is None, t.layer or 0))
    matrices = [t for t in tensors if _is_linear(t)]
    if target.kind == "int4":
        target = _with_group(target, matrices)
        group = group_of(target)
        fitting = [t for t in matrices if t.shape[1] % group == 0]
    else:
        target = Target(target.kind)
        fitting = matrices
    if not fitting:
        raise Unsupported(
            f"{model.name}: no matrix has inputs that are whole groups"
            f"{'' if target.group is None else f' of {target.group}'}"
        )
    names = frozenset(t.name for t in fitting)
    kept = tuple(t.name for t in matrices if t.name not in names)
    return Plan(target, names, kept, tuple(tensors))


def _is_linear(tensor: TensorInfo) -> bool:
    return tensor.layer is not None and len(tensor.shape) == 2 and tensor.name.endswith(".weight")


def _with_group(target: Target, matrices: list[TensorInfo]) -> Target:
    """The largest group among those that fit the most numbers of the model, unless one is asked for."""
    if target.group is not None:
        if target.group not in GROUPS:
            raise Unsupported(
                f"groups of {target.group} are not written; of {', '.join(map(str, GROUPS))} they are"
            )
        return target

    def fitting(group: int) -> int:
        return sum(n_out * n_in for n_out, n_in in map(_shape, matrices) if n_in % group == 0)

    best = max(sorted(GROUPS, reverse=True), key=fitting)
    return Target(target.kind, target.symmetric, best)


def _shape(tensor: TensorInfo) -> tuple[int, int]:
    n_out, n_in = tensor.shape
    return n_out, n_in
