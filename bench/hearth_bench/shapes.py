"""Shapes: the dimensions of well-known models, and the tensors that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """One tensor of a model's file: `shape` is row-major, [out, in] or [n]."""

    name: str
    shape: tuple[int, ...]
    layer: int | None  # None: outside the layers
    role: str  # the name without layer and ".weight": "attn_q", "attn_q.bias", "token_embd"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model is but for its weights and its words."""

    name: str
    architecture: str  # "llama" | "qwen2"
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_ff: int
    n_vocab: int
    context: int
    rope_theta: float
    norm_eps: float
    tied: bool

    @property
    def head_dim(self) -> int:
        """Dimensions of one head."""
        return self.d_model // self.n_heads

    @property
    def group(self) -> int:
        """Query heads that share one key-value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def pairs_neighbours(self) -> bool:
        """Whether rotary pairs lie at (2i, 2i + 1) in the file; otherwise at (i, i + half)."""
        return self.architecture == "llama"

    def places(self) -> Iterator[Place]:
        """Every tensor, in the file's order."""
        d, q = self.d_model, self.n_heads * self.head_dim
        kv = self.n_kv_heads * self.head_dim
        yield Place("token_embd.weight", (self.n_vocab, d), None, "token_embd")
        yield Place("output_norm.weight", (d,), None, "output_norm")
        if not self.tied:
            yield Place("output.weight", (self.n_vocab, d), None, "output")
        inside: dict[str, tuple[int, ...]] = {
            "attn_norm": (d,),
            "attn_q": (q, d),
            "attn_k": (kv, d),
            "attn_v": (kv, d),
            "attn_output": (d, q),
            "ffn_norm": (d,),
            "ffn_gate": (self.d_ff, d),
            "ffn_up": (self.d_ff, d),
            "ffn_down": (d, self.d_ff),
        }
        biases = {"attn_q.bias": (q,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
        for layer in range(self.n_layers):
            for role, shape in inside.items():
                yield Place(f"blk.{layer}.{role}.weight", shape, layer, role)
            if self.architecture == "qwen2":
                for role, shape in biases.items():
                    yield Place(f"blk.{layer}.{role}", shape, layer, role)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            "smollm2-135m", "llama", 30, 576, 9, 3, 1536, 49152, 8192, 100_000.0, 1e-5, tied=True
        ),
        Shape("qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 4864, 151_936, 32768, 1e6, 1e-6, tied=True),
        Shape(
            "llama-3.2-1b", "llama", 16, 2048, 32, 8, 8192, 128_256, 131_072, 5e5, 1e-5, tied=True
        ),
        Shape("qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 8960, 151_936, 32768, 1e6, 1e-6, tied=True),
        Shape(
            "llama-3.1-8b", "llama", 32, 4096, 32, 8, 14336, 128_256, 131_072, 5e5, 1e-5, tied=False
        ),
    )
}
"""By name, as the models' configuration files give them (rope scaling of Llama 3 left out: no cost)."""
