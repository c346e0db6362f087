"""Nesting: a small Llama inside a bigger shape, with the big one's cost and the small one's text.

Width: the small hidden state fills the first dimensions and zeros the rest, so a norm's mean square
shrinks by d_small / d_big; its weights and its epsilon undo that. Heads: a rotary pair i of the small
head lands on the pair of the big one that turns at the same rate, the query is scaled against the
bigger 1 / sqrt(head_dim), and heads that are not needed stay zero. Layers: the small ones are spread
over the big ones; those between have noise everywhere but zeros in the two projections that write.

Tokens that only the big vocabulary has can never win: every embedding holds a faint constant in the
last dimension, which the final norm makes loud and the rows of those tokens weigh negatively.

Precision: a matrix may be nested twice, the second time as what rounding took from the first, behind
a second copy of its input. Two Q4_0 matrices that add up to the weight are about as good as Q8_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from hearth_bench.blocks import BLOCK, F32, Kind, rounded, stored
from hearth_bench.modelfile import RandomWeights
from hearth_bench.shapes import Place, Shape

FAINT = 1e-7
"""The constant's share of an embedding's square sum, at most."""
LOUD = 100.0
"""The constant after the final norm, where hidden states have a root mean square of one."""
AGAINST = 100.0
"""Weight of the constant in the row of a token that may not win."""


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A Llama with a tied head, its matrices in float32 and rotary pairs at (i, i + half)."""

    shape: Shape
    tensors: Mapping[str, F32]  # by their names in the file

    def matrix(self, layer: int, role: str) -> F32:
        """One tensor of a layer."""
        return self.tensors[f"blk.{layer}.{role}.weight"]


def read_small(path: Path) -> SmallModel:
    """Read a GGUF of the Llama architecture; raises ValueError for another one."""
    reader = gguf.GGUFReader(path)

    def value(name: str) -> float:
        return float(reader.fields[f"llama.{name}"].contents())

    architecture = reader.fields["general.architecture"].contents()
    tensors = {
        tensor.name: np.asarray(
            gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32
        ).reshape([int(n) for n in reversed(tensor.shape)])
        for tensor in reader.tensors
    }
    if architecture != "llama" or "output.weight" in tensors:
        raise ValueError(f"{path}: only a Llama with a tied head can be nested")
    shape = Shape(
        name=path.stem,
        architecture="llama",
        n_layers=int(value("block_count")),
        d_model=int(value("embedding_length")),
        n_heads=int(value("attention.head_count")),
        n_kv_heads=int(value("attention.head_count_kv")),
        d_ff=int(value("feed_forward_length")),
        n_vocab=len(tensors["token_embd.weight"]),
        context=int(value("context_length")),
        rope_theta=value("rope.freq_base"),
        norm_eps=value("attention.layer_norm_rms_epsilon"),
        tied=True,
    )
    halves = apart(shape.head_dim)
    for layer in range(shape.n_layers):
        for role in ("attn_q", "attn_k"):
            name = f"blk.{layer}.{role}.weight"
            rows = tensors[name].reshape(-1, shape.head_dim, shape.d_model)
            tensors[name] = rows[:, halves].reshape(-1, shape.d_model)
    return SmallModel(shape, tensors)


def apart(head_dim: int) -> NDArray[np.intp]:
    """Where dimension i of (i, i + half) order lies in (2i, 2i + 1) order."""
    half = np.arange(head_dim // 2)
    return np.concatenate([2 * half, 2 * half + 1])


def nested_shape(small: Shape, big: Shape, copies: int = 1) -> Shape:
    """The big shape with what of its metadata follows the small model; raises ValueError if it has no room."""
    used = copies * aligned(small.d_model)
    for what, need, have in (
        ("width", used + BLOCK, big.d_model),
        ("feed-forward width", copies * aligned(small.d_ff), big.d_ff),
        ("head size", copies * small.head_dim, big.head_dim),
        ("key-value heads", small.n_kv_heads, big.n_kv_heads),
        ("query heads of a group", small.group, big.group),
        ("layers", small.n_layers, big.n_layers),
        ("vocabulary", small.n_vocab, big.n_vocab),
    ):
        if have < need:
            raise ValueError(f"{big.name} has no room for {small.name}: {what} {have} < {need}")
    if big.head_dim % small.head_dim:
        raise ValueError(f"head size {big.head_dim} is no multiple of {small.head_dim}")
    return replace(
        big,
        rope_theta=small.rope_theta,
        norm_eps=small.norm_eps * copies * small.d_model / big.d_model,
    )


def aligned(n: int) -> int:
    """The next whole number of blocks: copies begin where a scale begins."""
    return -(-n // BLOCK) * BLOCK


class NestedWeights:
    """The small model's weights in the big shape's tensors (`shape` is what `nested_shape` gave)."""

    def __init__(self, small: SmallModel, shape: Shape, copies: int = 1, seed: int = 0) -> None:
        self._small = small
        self._shape = shape
        self._copies = copies
        self._noise = RandomWeights(shape, seed)
        share = copies * small.shape.d_model / shape.d_model
        self._norm_scale = share**0.5
        embedding = small.tensors["token_embd.weight"]
        least = float(np.square(embedding).sum(axis=1).min())
        self._constant = (FAINT * copies * least) ** 0.5
        step = shape.n_layers / small.shape.n_layers
        self._layers = {round(i * step): i for i in range(small.shape.n_layers)}

    def tensor(self, place: Place, kind: Kind) -> NDArray[np.generic]:
        """One tensor as its type stores it."""
        if place.role.endswith("bias"):
            return np.zeros(place.shape, np.float32)
        if place.layer is None:
            return stored(self._outside(place), kind)
        layer = self._layers.get(place.layer)
        if layer is not None:
            return stored(self._inside(place, layer, kind), kind)
        if place.role in ("attn_output", "ffn_down"):
            return stored(np.zeros(place.shape, np.float32), kind)
        return self._noise.tensor(place, kind)

    def _outside(self, place: Place) -> F32:
        small, copies = self._small.shape, self._copies
        out = np.zeros(place.shape, np.float32)
        if place.role == "output_norm":
            weights = self._small.tensors["output_norm.weight"]
            # The head reads every copy, so each counts for its part.
            self._along(out, weights * (self._norm_scale / copies))
            out[-1] = LOUD / self._constant * self._norm_scale
            return out
        embedding = self._small.tensors["token_embd.weight"]
        for copy in range(copies):
            at = copy * aligned(small.d_model)
            out[: small.n_vocab, at : at + small.d_model] = embedding
        out[: small.n_vocab, -1] = self._constant
        out[small.n_vocab :, -1] = -AGAINST
        return out

    def _inside(self, place: Place, layer: int, kind: Kind) -> F32:
        weights = self._small.matrix(layer, place.role)
        out = np.zeros(place.shape, np.float32)
        match place.role:
            case "attn_norm" | "ffn_norm":
                self._along(out, weights * self._norm_scale)
            case "attn_q":
                scale = (self._shape.head_dim / self._small.shape.head_dim) ** 0.5
                self._fill(out, weights * scale, kind, [self._query_rows()], self._width())
            case "attn_k":
                self._fill(out, weights, kind, [self._key_rows()], self._width())
            case "attn_v":
                rows = [self._value_rows(copy) for copy in range(self._copies)]
                self._fill(out, weights, kind, rows, self._width())
            case "attn_output":
                columns = [self._mixed_columns(copy) for copy in range(self._copies)]
                self._fill(out, weights, kind, self._width(), columns)
            case "ffn_gate" | "ffn_up":
                self._fill(out, weights, kind, self._inner(), self._width())
            case "ffn_down":
                self._fill(out, weights, kind, self._width(), self._inner())
        return out

    def _along(self, out: F32, weights: F32) -> None:
        for columns in self._width():
            out[columns] = weights

    def _fill(
        self,
        out: F32,
        weights: F32,
        kind: Kind,
        rows: list[NDArray[np.intp]],
        columns: list[NDArray[np.intp]],
    ) -> None:
        """Write one matrix behind each copy of its input; all copies of its output are equal."""
        left = weights
        for at in columns:
            for to in rows:
                out[np.ix_(to, at)] = left
            left = left - rounded(left, kind)

    # --- where things are ----------------------------------------------------------------------

    def _width(self) -> list[NDArray[np.intp]]:
        return self._copies_of(self._small.shape.d_model)

    def _inner(self) -> list[NDArray[np.intp]]:
        return self._copies_of(self._small.shape.d_ff)

    def _copies_of(self, n: int) -> list[NDArray[np.intp]]:
        return [np.arange(n) + copy * aligned(n) for copy in range(self._copies)]

    def _query_heads(self) -> NDArray[np.intp]:
        """The big query head that each small one becomes: the same key-value head, the same place."""
        head = np.arange(self._small.shape.n_heads)
        group = self._small.shape.group
        return head // group * self._shape.group + head % group

    def _rotary(self) -> NDArray[np.intp]:
        """The big head's row for each dimension of a small one: the pair that turns at its rate."""
        size = self._shape.head_dim
        step = size // self._small.shape.head_dim
        half = np.arange(self._small.shape.head_dim // 2) * step
        dimensions = np.concatenate([half, size // 2 + half])
        if not self._shape.pairs_neighbours:
            return dimensions
        neighbours: NDArray[np.intp] = apart(size)[dimensions]
        return neighbours

    def _query_rows(self) -> NDArray[np.intp]:
        return (self._query_heads()[:, None] * self._shape.head_dim + self._rotary()).ravel()

    def _key_rows(self) -> NDArray[np.intp]:
        heads = np.arange(self._small.shape.n_kv_heads)
        return (heads[:, None] * self._shape.head_dim + self._rotary()).ravel()

    def _value_rows(self, copy: int) -> NDArray[np.intp]:
        return self._plain_rows(np.arange(self._small.shape.n_kv_heads), copy)

    def _mixed_columns(self, copy: int) -> NDArray[np.intp]:
        return self._plain_rows(self._query_heads(), copy)

    def _plain_rows(self, heads: NDArray[np.intp], copy: int) -> NDArray[np.intp]:
        size = self._small.shape.head_dim
        inner = np.arange(size) + copy * size
        return (heads[:, None] * self._shape.head_dim + inner).ravel()


def copies_for(kind: str) -> int:
    """How often matrices are nested: twice where one rounding alone would change the text."""
    return 2 if kind == "Q4_0" else 1
