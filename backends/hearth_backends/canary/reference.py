"""The canary computed in NumPy and float64: what every device's numbers are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.spec import ModelSpec

F64 = NDArray[np.float64]


def reference_logprobs(spec: ModelSpec, tokens: Sequence[int]) -> F64:
    """Log-probabilities of the next token after each of `tokens` [n, n_vocab]; raises ModelFileError.

    For plain models of the Llama architecture with tied embeddings, as the canary is.
    """
    reader = open_reader(spec)
    embeddings = _tensor(reader, "model.embed_tokens.weight")
    x = embeddings[list(tokens)]
    for layer in range(spec.n_layers):
        x = _layer(reader, f"model.layers.{layer}", spec, x)
    logits = _norm(x, _tensor(reader, "model.norm.weight"), spec.norm_eps) @ embeddings.T
    top = logits.max(axis=1, keepdims=True)
    found: F64 = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return found


def _layer(reader: TensorReader, name: str, spec: ModelSpec, x: F64) -> F64:
    """Attention and feed-forward, each behind a norm and beside what came in [n, d_model]."""

    def weight(part: str) -> F64:
        return _tensor(reader, f"{name}.{part}.weight")

    y = _norm(x, weight("input_layernorm"), spec.norm_eps)
    query, key, value = (y @ weight(f"self_attn.{part}_proj").T for part in "qkv")
    x = x + _attend(query, key, value, spec) @ weight("self_attn.o_proj").T
    y = _norm(x, weight("post_attention_layernorm"), spec.norm_eps)
    gate = y @ weight("mlp.gate_proj").T
    out: F64 = (
        x + (gate / (1 + np.exp(-gate)) * (y @ weight("mlp.up_proj").T)) @ weight("mlp.down_proj").T
    )
    return out


def _attend(query: F64, key: F64, value: F64, spec: ModelSpec) -> F64:
    n, width = len(query), spec.head_dim
    q = _rotate(query.reshape(n, spec.n_heads, width), spec.rope.theta)
    k = _rotate(key.reshape(n, spec.n_kv_heads, width), spec.rope.theta)
    shared = spec.n_heads // spec.n_kv_heads
    k, v = (
        np.repeat(part, shared, axis=1) for part in (k, value.reshape(n, spec.n_kv_heads, width))
    )
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(width)
    scores[:, ~np.tri(n, dtype=bool)] = -np.inf
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    out: F64 = np.einsum("hij,jhd->ihd", shares, v).reshape(n, -1)
    return out


def _rotate(x: F64, theta: float) -> F64:
    """Turn the pairs (i, i + half) of each head by the row's position."""
    n, _, width = x.shape
    half = width // 2
    angles = np.arange(n)[:, None, None] * theta ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def _norm(x: F64, weight: F64, eps: float) -> F64:
    out: F64 = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * weight
    return out


def _tensor(reader: TensorReader, name: str) -> F64:
    return reader.tensor(name).astype(np.float64)
