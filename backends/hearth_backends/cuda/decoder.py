"""Decoder: layers of one model over paged memory, with whatever kernels it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Kernels
from hearth_backends.cuda.linear import Linear
from hearth_backends.cuda.pool import KVPool
from hearth_backends.cuda.rows import StepRows


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer as it is computed; the numbers that differ between layers stand beside the weights."""

    input_norm: Tensor
    qkv: Linear  # queries, keys and values one below the other
    q_norm: Tensor | None
    k_norm: Tensor | None
    output: Linear
    post_attention_norm: Tensor | None  # of what attention gives, before it is added
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    post_mlp_norm: Tensor | None
    rope: Rope
    window: int | None  # tokens that a row attends to; None: all before it


@dataclass(frozen=True, slots=True)
class Rope:
    """Cosines and sines of every position [n_ctx, n_dims / 2], float32, times the rope's magnitude."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is the same for all layers."""

    n_heads: int  # of this device, where several share a model
    n_kv_heads: int
    head_dim: int
    norm_eps: float
    norm_offset: bool  # norms multiply by one more than their weights
    scale: float  # of query times key
    softcap: float | None
    logit_softcap: float | None
    token_scale: float
    activation: str  # "silu" | "gelu_tanh"
    n_vocab: int


@dataclass(frozen=True, slots=True)
class Weights:
    """Layers [first, last), and what stands before and behind them in this stage."""

    layers: tuple[LayerWeights, ...]
    embedding: Tensor | None  # [n_vocab, d_model]
    final_norm: Tensor | None
    head: Linear | None

    @property
    def n_bytes(self) -> int:
        """Of all of them on the device."""
        tensors: list[Tensor | None] = [self.embedding, self.final_norm]
        linears = [] if self.head is None else [self.head]
        for layer in self.layers:
            tensors += [layer.input_norm, layer.q_norm, layer.k_norm, layer.mlp_norm]
            tensors += [layer.post_attention_norm, layer.post_mlp_norm]
            linears += [layer.qkv, layer.output, layer.gate_up, layer.down]
        return sum(t.nbytes for t in tensors if t is not None) + sum(x.n_bytes for x in linears)


Reduce = Callable[[Tensor], Tensor]
"""Adds up what each device of a group has computed of one sum; alone, the same tensor."""


def alone(x: Tensor) -> Tensor:
    """The sum over a group of one."""
    return x


class Decoder:
    """Pure but for the key-value memory that it writes; every size comes from its inputs."""

    def __init__(
        self, weights: Weights, numbers: Numbers, kernels: Kernels, reduce: Reduce = alone
    ) -> None:
        self.weights = weights
        self.numbers = numbers
        self._kernels = kernels
        self._reduce = reduce

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens [n] to what enters the first layer [n, d_model]."""
        assert self.weights.embedding is not None
        x = torch.nn.functional.embedding(tokens, self.weights.embedding)
        return x if self.numbers.token_scale == 1.0 else x * self.numbers.token_scale

    def layers(self, x: Tensor, rows: StepRows, pool: KVPool) -> Tensor:
        """What enters the first layer to what leaves the last, before the final norm [n, d_model]."""
        residual = x.clone()
        pending: Tensor | None = None  # still to be added to the residual
        for i, layer in enumerate(self.weights.layers):
            h = self._normed(pending, residual, layer.input_norm)
            h = self._attention(h, layer, rows, pool, i)
            h = self._after(h, layer.post_attention_norm)
            h = self._normed(h, residual, layer.mlp_norm)
            h = layer.gate_up(h)
            h = self._kernels.gelu_mul(h) if self._is_gelu else self._kernels.silu_mul(h)
            pending = self._after(self._reduce(layer.down(h)), layer.post_mlp_norm)
        return residual if pending is None else residual.add_(pending)

    def head(self, x: Tensor) -> Tensor:
        """Hidden states of wanted rows [k, d_model] to logits [k, n_vocab] in float32."""
        weights, softcap = self.weights, self.numbers.logit_softcap
        assert weights.head is not None
        assert weights.final_norm is not None
        logits = weights.head(self._norm(x, weights.final_norm)).float()
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return logits

    @property
    def _is_gelu(self) -> bool:
        return self.numbers.activation == "gelu_tanh"

    def _attention(
        self, x: Tensor, layer: LayerWeights, rows: StepRows, pool: KVPool, i: int
    ) -> Tensor:
        numbers, n = self.numbers, x.shape[0]
        counts = [numbers.n_heads, numbers.n_kv_heads, numbers.n_kv_heads]
        qkv = layer.qkv(x).view(n, sum(counts), numbers.head_dim)
        q, k, v = torch.split(qkv, counts, dim=1)
        self._kernels.store_qkv(
            q, k, v, layer.q_norm, layer.k_norm, numbers.norm_eps, numbers.norm_offset,
            layer.rope.cos, layer.rope.sin, rows.positions, rows.slots,
            pool.keys[i], pool.values[i],
        )  # fmt: skip
        out = self._attend(q, layer, rows, pool, i)
        return self._reduce(layer.output(out.reshape(n, -1)))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self._kernels.rms_norm(x, weight, self.numbers.norm_eps, self.numbers.norm_offset)

    def _after(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """The norm that some architectures have behind a part of a layer."""
        return x if weight is None else self._norm(x, weight)

    def _normed(self, pending: Tensor | None, residual: Tensor, weight: Tensor) -> Tensor:
        """Add what is pending to the residual in place, and norm the sum."""
        if pending is None:
            return self._norm(residual, weight)
        numbers = self.numbers
        return self._kernels.add_rms_norm(
            pending, residual, weight, numbers.norm_eps, numbers.norm_offset
        )

    def _attend(
        self, q: Tensor, layer: LayerWeights, rows: StepRows, pool: KVPool, i: int
    ) -> Tensor:
        numbers = self.numbers
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        keys, values, tables, lengths = (
            pool.keys[i],
            pool.values[i],
            rows.block_tables,
            rows.lengths,
        )
        scale, window, softcap = numbers.scale, layer.window, numbers.softcap
        if rows.is_decode:
            self._kernels.attend_decode(
                q, keys, values, tables, lengths, scale, window, softcap, None, out
            )
        else:
            self._kernels.attend(
                q, keys, values, tables, rows.row_starts, lengths, scale, window, softcap, None, out
            )
        return out
