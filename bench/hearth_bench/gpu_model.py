"""Models of real shapes with random weights, made on the device, as stages of the paged engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hearth_backends.base import Capabilities, StageSpec
from hearth_backends.cuda.decoder import Decoder, LayerWeights, Numbers, Weights
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels.contract import Attention, Kernels, Rope
from hearth_backends.cuda.kernels.packing import int4_of
from hearth_backends.cuda.linear import EightBitLinear, FloatLinear, Int4Linear, Linear
from hearth_backends.cuda.pool import KVPool
from hearth_backends.cuda.rows import Rows
from hearth_backends.cuda.runner import Runner
from hearth_backends.cuda.sampler import Sampler
from hearth_backends.cuda.stage import CudaStage, Parts
from hearth_bench.shapes import Shape

GROUP = 128
KINDS = ("float", "fp8", "int4")


@dataclass(frozen=True, slots=True)
class Room:
    """What a stage has memory for."""

    n_seq: int
    n_ctx: int
    n_rows: int
    kv_tokens: int
    kv_dtype: torch.dtype


class Maker:
    """Makes weights in one floating point type on one device."""

    def __init__(
        self, shape: Shape, where: Accelerator, dtype: torch.dtype, kernels: Kernels
    ) -> None:
        self.shape = shape
        self.where = where
        self.dtype = dtype
        self.kernels = kernels

    def weights(self, kind: str, n_ctx: int) -> Weights:
        """All of a model; `kind`, one of KINDS, is that of the matrices in its layers. The head is in floats."""
        shape = self.shape
        rope = self._rope(n_ctx)
        embedding = self.normal(shape.n_vocab, shape.d_model)
        head = embedding if shape.tied else self.normal(shape.n_vocab, shape.d_model)
        return Weights(
            layers=tuple(self._layer(kind, rope) for _ in range(shape.n_layers)),
            embedding=embedding,
            final_norm=self._ones(),
            head=FloatLinear(head),
        )

    def linear(self, kind: str, n_out: int, n_in: int) -> Linear:
        """One matrix."""
        device = self.where.torch
        if kind == "fp8":
            weight = self.normal(n_out, n_in, 1.0).to(torch.float8_e4m3fn)
            scales = torch.full((n_out,), n_in**-0.5, device=device)
            rounds = self.where.multiplies_fp8
            return EightBitLinear(weight, scales, None, self.kernels, rounds=rounds)
        if kind == "int4":
            packed = torch.randint(0, 256, (n_out, n_in // 2), dtype=torch.uint8, device=device)
            scales = torch.full((n_out, n_in // GROUP), n_in**-0.5 / 4.6, device=device)
            return Int4Linear(int4_of(packed, scales.half(), None), None, self.kernels)
        return FloatLinear(self.normal(n_out, n_in))

    def normal(self, n_out: int, n_in: int, deviation: float | None = None) -> Tensor:
        """Random numbers that keep activations near one."""
        values = torch.empty((n_out, n_in), dtype=self.dtype, device=self.where.torch)
        return values.normal_(0.0, n_in**-0.5 if deviation is None else deviation)

    def _layer(self, kind: str, rope: Rope) -> LayerWeights:
        shape = self.shape
        d, dim = shape.d_model, shape.head_dim
        return LayerWeights(
            input_norm=self._ones(),
            qkv=self.linear(kind, (shape.n_heads + 2 * shape.n_kv_heads) * dim, d),
            q_norm=None,
            k_norm=None,
            output=self.linear(kind, d, shape.n_heads * dim),
            post_attention_norm=None,
            mlp_norm=self._ones(),
            gate_up=self.linear(kind, 2 * shape.d_ff, d),
            down=self.linear(kind, d, shape.d_ff),
            post_mlp_norm=None,
            rope=rope,
            attention=Attention(shape.head_dim**-0.5),
        )

    def _ones(self) -> Tensor:
        return torch.ones(self.shape.d_model, device=self.where.torch)

    def _rope(self, n_ctx: int) -> Rope:
        shape = self.shape
        exponents = torch.arange(0, shape.head_dim, 2, device=self.where.torch) / shape.head_dim
        angles = (
            torch.arange(n_ctx, device=self.where.torch)[:, None] * shape.rope_theta**-exponents
        )
        return Rope(angles.cos(), angles.sin())


def open_stage(maker: Maker, weights: Weights, room: Room, *, graphs: bool = True) -> CudaStage:
    """A stage as the engine has it, over fresh key-value memory."""
    shape, where = maker.shape, maker.where
    spec = StageSpec(
        first=0, last=shape.n_layers, embed=True, head=True, n_seq=room.n_seq, n_ctx=room.n_ctx,
        n_rows=room.n_rows, kv_tokens=room.kv_tokens, kv_dtype="f16", weight_kind="file", threads=2,
    )  # fmt: skip
    numbers = Numbers(
        n_heads=shape.n_heads, n_kv_heads=shape.n_kv_heads, head_dim=shape.head_dim,
        norm_eps=shape.norm_eps,
    )  # fmt: skip
    pool = KVPool(
        shape.n_layers, room.kv_tokens, shape.n_kv_heads, shape.head_dim,
        dtype=room.kv_dtype, device=where.torch,
    )  # fmt: skip
    kernels = maker.kernels
    runner = Runner(
        Decoder(weights, numbers, kernels),
        pool,
        Rows(spec, where.torch),
        kernels,
        where,
        maker.dtype,
    )
    if not graphs:
        runner._graphs = None  # nothing in the engine asks for that
    parts = Parts(runner, Sampler(where, kernels), "random", "bench", shape.d_model)
    return CudaStage(spec, Capabilities(async_depth=1), parts)


def streamed_bytes(weights: Weights, shape: Shape) -> int:
    """What a step reads of the weights: all but the table of embeddings, unless the head is that."""
    assert weights.embedding is not None
    return weights.n_bytes if shape.tied else weights.n_bytes - weights.embedding.nbytes


def kv_bytes(shape: Shape, dtype: torch.dtype) -> int:
    """Of one token."""
    return 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * dtype.itemsize


def row_operations(shape: Shape) -> int:
    """Floating point operations of one row in the layers' matrices."""
    heads = (2 * shape.n_heads + 2 * shape.n_kv_heads) * shape.head_dim
    return 2 * shape.n_layers * (heads * shape.d_model + 3 * shape.d_ff * shape.d_model)
