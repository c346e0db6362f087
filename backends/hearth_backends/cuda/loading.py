"""Loading: from a model's files to weights on the device, one matrix at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hearth_backends.base import Progress, StageSpec
from hearth_backends.cuda.decoder import LayerWeights, Numbers, Weights
from hearth_backends.cuda.kernels.contract import Attention, Rope
from hearth_backends.cuda.linear import FloatLinear, Linear
from hearth_backends.cuda.precision import Precision
from hearth_backends.cuda.quantized import Place, Source, floats_of, make_linear
from hearth_backends.cuda.shard import WHOLE, Shard
from hearth_backends.weights.matrix import Matrix, Part
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
            logit_softcap=variant.logit_softcap or None,
            token_scale=variant.token_scale,
            gelu=variant.activation == "gelu_tanh",
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
            final_norm=self._norm(final_norm(self._model)) if has_head else None,
            head=self._head(embedding) if has_head else None,
        )

    def _layer(self, layer: int, rope: Rope) -> LayerWeights:
        recipe, variant = layer_recipe(self._model, layer), self.variant
        window, softcap = variant.windows[layer] or None, variant.attention_softcap or None
        return LayerWeights(
            input_norm=self._norm(recipe.input_norm),
            qkv=self._qkv(recipe),
            q_norm=self._norm_or_none(recipe.q_norm),
            k_norm=self._norm_or_none(recipe.k_norm),
            output=self._summed(recipe.output, recipe.output_bias),
            post_attention_norm=self._norm_or_none(recipe.post_attention_norm),
            mlp_norm=self._norm(recipe.mlp_norm),
            gate_up=self._linear(self._gate_up(recipe)),
            down=self._summed(recipe.down),
            post_mlp_norm=self._norm_or_none(recipe.post_mlp_norm),
            rope=rope,
            attention=Attention(variant.attention_scale, window, softcap),
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
        kind, place = self._precision.kind_of(matrix, self._model), self._place
        added = None if bias is None else place.put(bias.read(self._reader), place.dtype)
        return make_linear(kind, Source(matrix, self._reader, inputs), added, place)

    def _head(self, embedding: Tensor | None) -> Linear:
        """The output matrix; the embedding itself where that is the same and in the same type."""
        matrix = head_matrix(self._model)
        is_float = self._precision.kind_of(matrix, self._model) == self._precision.compute_name
        if is_float and embedding is not None and "lm_head.weight" not in self._model.tensors:
            return FloatLinear(embedding)
        return self._linear(matrix)

    def _embedding(self) -> Tensor:
        name = "model.embed_tokens.weight"
        n_rows, n_in = self._model.tensors[name].shape
        matrix = Matrix(name, (Part(name, n_rows),), n_in)
        return floats_of(Source(matrix, self._reader), self._place)

    def _norm(self, vector: Matrix) -> Tensor:
        """In float32, what the architecture adds to it included."""
        return self._place.put(vector.read(self._reader) + self.variant.norm_offset, torch.float32)

    def _norm_or_none(self, vector: Matrix | None) -> Tensor | None:
        return None if vector is None else self._norm(vector)

    def _rope(self, table: RopeTable) -> Rope:
        angles = table.angles(self._spec.n_ctx)
        turns = (np.cos(angles) * table.magnitude, np.sin(angles) * table.magnitude)
        return Rope(*(self._place.put(values, torch.float32) for values in turns))
