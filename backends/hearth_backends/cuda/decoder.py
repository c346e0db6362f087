"""Decoder: layers of one model over paged memory, with whatever kernels it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Attention, Kernels, Rope, StepRows
from hearth_backends.cuda.linear import Linear
from hearth_backends.cuda.pool import KVPool


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer as it is computed; what differs between layers stands beside the weights. Norms [d] are float32."""

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
    attention: Attention


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is the same for all layers."""

    n_heads: int  # of this device, where several share a model
    n_kv_heads: int
    head_dim: int
    norm_eps: float
    logit_softcap: float | None = None
    token_scale: float = 1.0
    gelu: bool = False  # tanh's form of it, instead of SiLU


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
        kernels, eps = self._kernels, self.numbers.norm_eps
        residual = x.clone()
        pending: Tensor | None = None  # still to be added to the residual
        for i, layer in enumerate(self.weights.layers):
            if pending is None:
                h = kernels.rms_norm(residual, layer.input_norm, eps)
            else:
                h = kernels.add_rms_norm(pending, residual, layer.input_norm, eps)
            h = self._after(self._attention(h, layer, rows, pool, i), layer.post_attention_norm)
            h = kernels.add_rms_norm(h, residual, layer.mlp_norm, eps)
            h = kernels.gated(layer.gate_up(h), gelu=self.numbers.gelu)
            pending = self._after(self._reduce(layer.down(h)), layer.post_mlp_norm)
        return residual if pending is None else residual.add_(pending)

    def head(self, x: Tensor) -> Tensor:
        """Hidden states of wanted rows [k, d_model] to logits [k, n_vocab] in float32."""
        weights, softcap = self.weights, self.numbers.logit_softcap
        assert weights.head is not None
        logits = weights.head(self._after(x, weights.final_norm)).float()
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        return logits

    def _attention(
        self, x: Tensor, layer: LayerWeights, rows: StepRows, pool: KVPool, i: int
    ) -> Tensor:
        numbers, memory = self.numbers, pool.layers[i]
        counts = [numbers.n_heads, numbers.n_kv_heads, numbers.n_kv_heads]
        qkv = layer.qkv(x).view(len(x), sum(counts), numbers.head_dim)
        q, k, v = torch.split(qkv, counts, dim=1)
        norms = (layer.q_norm, layer.k_norm, numbers.norm_eps)
        self._kernels.store_qkv(q, k, v, *norms, layer.rope, rows, memory)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        self._kernels.attend(q, memory, rows, layer.attention, out)
        return self._reduce(layer.output(out.flatten(1)))

    def _after(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """The norm that some architectures have behind a part of a layer, and all before the head."""
        return x if weight is None else self._kernels.rms_norm(x, weight, self.numbers.norm_eps)
