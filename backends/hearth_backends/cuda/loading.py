"""Loading: from a model's files to weights on the device, one matrix at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from hearth_backends.base import Progress, StageSpec
from hearth_backends.cuda.decoder import LayerWeights, Numbers, Rope, Weights
from hearth_backends.cuda.linear import FloatLinear, Linear
from hearth_backends.cuda.precision import Precision
from hearth_backends.cuda.quantized import Place, Source, make_linear
from hearth_backends.cuda.shard import WHOLE, Shard
from hearth_backends.cuda.transfer import as_tensor
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.recipe import LayerRecipe, final_norm, head_matrix, layer_recipe
from hearth_backends.weights.rope import RopeTable
from hearth_backends.weights.variant import Variant


class WeightLoader:
    """Puts the layers of one stage on one device; of a group, only the device's own share."""

    def __init__(
        self,
        reader: TensorReader,
        spec: StageSpec,
        precision: Precision,
        place: Place,
        shard: Shard = WHOLE,
    ) -> None:
        self._reader = reader
        self._model = reader.spec
        self._spec = spec
        self._precision = precision
        self._place = place
        self._device = place.device.torch
        self._shard = shard
        self.variant: Variant = reader.variant(spec.n_ctx)

    def numbers(self) -> Numbers:
        """What is the same for all layers."""
        model, variant = self._model, self.variant
        return Numbers(
            n_heads=model.n_heads // self._shard.size,
            n_kv_heads=model.n_kv_heads // self._shard.size,
            head_dim=model.head_dim,
            norm_eps=model.norm_eps,
            norm_offset=variant.norm_offset == 1.0,
            scale=variant.attention_scale,
            softcap=variant.attention_softcap or None,
            logit_softcap=variant.logit_softcap or None,
            token_scale=variant.token_scale,
            activation=variant.activation,
            n_vocab=model.n_vocab,
        )

    def weights(self, progress: Progress) -> Weights:
        """All of the stage; raises ModelFileError, Unsupported, and what torch raises without memory."""
        spec = self._spec
        n_parts = spec.last - spec.first + 1
        ropes = [self._rope(table) for table in self.variant.ropes]
        layers = []
        for layer in range(spec.first, spec.last):
            layers.append(self._layer(layer, ropes[self.variant.rope_of[layer]]))
            progress(len(layers) / n_parts)
        embedding = self._embedding() if spec.embed else None
        has_head = spec.head and self._shard.rank == 0  # who samples needs all logits
        return Weights(
            layers=tuple(layers),
            embedding=embedding,
            final_norm=self._vector(final_norm(self._model)) if has_head else None,
            head=self._head(embedding) if has_head else None,
        )

    def _layer(self, layer: int, rope: Rope) -> LayerWeights:
        recipe = layer_recipe(self._model, layer)
        return LayerWeights(
            input_norm=self._vector(recipe.input_norm),
            qkv=self._qkv(recipe),
            q_norm=self._vector_or_none(recipe.q_norm),
            k_norm=self._vector_or_none(recipe.k_norm),
            output=self._summed(recipe.output, recipe.output_bias),
            post_attention_norm=self._vector_or_none(recipe.post_attention_norm),
            mlp_norm=self._vector(recipe.mlp_norm),
            gate_up=self._linear(self._gate_up(recipe)),
            down=self._summed(recipe.down),
            post_mlp_norm=self._vector_or_none(recipe.post_mlp_norm),
            rope=rope,
            window=self.variant.windows[layer] or None,
        )

    def _qkv(self, recipe: LayerRecipe) -> Linear:
        bias = recipe.qkv_bias
        cut = self._shard.outputs
        return self._linear(cut(recipe.qkv), None if bias is None else cut(bias))

    def _gate_up(self, recipe: LayerRecipe) -> Matrix:
        gate, up = self._shard.outputs(recipe.gate), self._shard.outputs(recipe.up)
        return Matrix(f"{gate.name}_up", (*gate.parts, *up.parts), gate.n_in)

    def _summed(self, matrix: Matrix, bias: Matrix | None = None) -> Linear:
        """One whose products are added up over the group: each device has some inputs, the first the bias."""
        bias = bias if self._shard.rank == 0 else None
        return self._linear(matrix, bias, self._shard.inputs(matrix))

    def _linear(
        self, matrix: Matrix, bias: Matrix | None = None, inputs: slice | None = None
    ) -> Linear:
        kind = self._precision.kind_of(matrix, self._model)
        source = Source(matrix, self._reader, inputs)
        return make_linear(kind, source, self._vector_or_none(bias), self._place)

    def _head(self, embedding: Tensor | None) -> Linear:
        """The output matrix; the embedding itself where that is the same and in the same type."""
        matrix = head_matrix(self._model)
        is_float = self._precision.kind_of(matrix, self._model) == self._precision.compute_name
        if is_float and embedding is not None and "lm_head.weight" not in self._model.tensors:
            return FloatLinear(embedding)
        return self._linear(matrix)

    def _embedding(self) -> Tensor:
        n_rows, n_in = self._model.tensors["model.embed_tokens.weight"].shape
        table = torch.empty((n_rows, n_in), dtype=self._precision.compute, device=self._device)
        at = 0
        for rows in self._chunks(n_rows, n_in):
            table[at : at + len(rows)] = rows.to(self._device)
            at += len(rows)
        return table

    def _chunks(self, n_rows: int, n_in: int) -> Iterator[Tensor]:
        step = max(1, (1 << 22) // n_in)
        for first in range(0, n_rows, step):
            at = np.arange(first, min(first + step, n_rows), dtype=np.int32)
            yield as_tensor(self._reader.rows("model.embed_tokens.weight", at))

    def _vector(self, vector: Matrix) -> Tensor:
        values = as_tensor(vector.read(self._reader))
        return values.to(self._device, self._precision.compute)

    def _vector_or_none(self, vector: Matrix | None) -> Tensor | None:
        return None if vector is None else self._vector(vector)

    def _rope(self, table: RopeTable) -> Rope:
        angles = table.angles(self._spec.n_ctx)
        cos, sin = (
            torch.from_numpy((values * table.magnitude).astype(np.float32)).to(self._device)
            for values in (np.cos(angles), np.sin(angles))
        )
        return Rope(cos, sin)
