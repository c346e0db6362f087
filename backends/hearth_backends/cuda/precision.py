"""Precision: the number types that a stage computes in and keeps, from what the configuration asks for; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hearth_backends.errors import Unsupported
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.recipe import HEAD
from hearth_backends.weights.spec import ModelSpec

WEIGHT_KINDS = ("file", "fp32", "fp16", "bf16", "fp8", "int8", "int4-32", "int4-128")
"""Names that the configuration takes as `weights`.

file      what comes closest to the file: int4-32 for Q4_0, 4-bit groups of checkpoints and their 8-bit
          integers to the bit, fp8 for their 8-bit floats; every other type in the stage's own (`Precision.compute`)
fp32, fp16, bf16   floating point numbers, computed in the same
fp8       8-bit floats (E4M3) with one scale for each output, activations in 8 bits with one for each row
int8      8-bit integers with one scale for each output, activations as for fp8
int4-32, int4-128  4-bit integers in groups of so many inputs; activations as they are
"""
KV_DTYPES = ("f16", "f32", "fp8")
"""f16 is two bytes: bfloat16 where the stage computes in it, otherwise float16."""

_FLOATS: Mapping[str, torch.dtype] = {
    "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16,
}  # fmt: skip
_GROUPED: Mapping[frozenset[str], str] = {
    frozenset({f"{sign}INT4-{size}"}): f"int4-{size}"
    for sign in ("", "U")
    for size in (32, 64, 128)
}
_AS_STORED: Mapping[frozenset[str], str] = {
    **_GROUPED,
    frozenset({"Q4_0"}): "int4-32",
    frozenset({"INT8"}): "int8",
    frozenset({"F8_E4M3"}): "fp8",
}
_BITS: Mapping[str, float] = {
    "fp32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "int4-32": 5, "int4-64": 4.5, "int4-128": 4.25,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Precision:
    """Types of one stage."""

    compute: torch.dtype  # activations, norms, biases, embedding
    kv: torch.dtype
    weights: str  # one of WEIGHT_KINDS

    @property
    def compute_name(self) -> str:
        """Of the floating point kind that the stage computes in."""
        return next(name for name, dtype in _FLOATS.items() if dtype is self.compute)

    def kind_of(self, matrix: Matrix, model: ModelSpec) -> str:
        """How one matrix is kept: what "file" comes to for it, the same for all otherwise.

        The head stays in floating point unless the file has it otherwise, and so do matrices whose inputs
        are not whole groups.
        """
        if self.weights != "file":
            kind, _, size = self.weights.partition("-")
            is_whole = kind != "int4" or matrix.n_in % int(size) == 0
            return self.weights if is_whole and matrix.name != HEAD else self.compute_name
        types = frozenset(model.tensors[part.tensor].dtype for part in matrix.parts)
        return _AS_STORED.get(types, self.compute_name)

    def bytes_of(self, matrix: Matrix, model: ModelSpec) -> int:
        """That the matrix takes once it is loaded."""
        return int(matrix.n_out * matrix.n_in * _BITS[self.kind_of(matrix, model)] / 8)


def precision_of(
    weight_kind: str, kv_dtype: str, *, is_cpu: bool, has_bf16: bool, reads_fp8: bool
) -> Precision:
    """What a stage computes in; raises Unsupported for kinds that there are not, or not on this device."""
    if weight_kind not in WEIGHT_KINDS:
        raise Unsupported(
            f"backend cuda knows no weights of the kind {weight_kind!r}; it knows {', '.join(WEIGHT_KINDS)}"
        )
    if kv_dtype not in KV_DTYPES:
        raise Unsupported(
            f"backend cuda keeps keys and values in {', '.join(KV_DTYPES)}, not {kv_dtype}"
        )
    if kv_dtype == "fp8" and not reads_fp8:
        raise Unsupported(
            "backend cuda keeps keys and values in fp8 from compute capability 8.9 on (Ada, Hopper, "
            'Blackwell), and this GPU has less; kv_dtype = "f16" runs on it'
        )
    fast = torch.bfloat16 if has_bf16 else torch.float16
    compute = _FLOATS.get(weight_kind, torch.float32 if is_cpu else fast)
    half = torch.bfloat16 if compute is torch.bfloat16 else torch.float16
    kv = {"f32": torch.float32, "f16": half, "fp8": torch.float8_e4m3fn}[kv_dtype]
    return Precision(compute, kv, weight_kind)
