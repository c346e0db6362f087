"""The decoder graph: layers [first, last) of a model, and the head where the stage has it.

Inputs: `x` [rows, d_model], what enters the first layer; `lengths` [batch], a sequence's tokens after
the step, less one; `longest`, the most of them (plus one); `shape`, [batch, length, width] with
batch * length = rows; `wanted` [wanted], rows whose logits are wanted; and for each layer
`key_i`, `value_i` [batch, kv_heads, room, head_dim], which `new_key_i`, `new_value_i` are bound to as well.
Outputs: `logits` [wanted, vocabulary], or `hidden` [rows, d_model], before the final norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from hearth_backends.base import F32, StageSpec
from hearth_backends.onnx.graph import MICROSOFT, Graph, Weight
from hearth_backends.onnx.kinds import Linear, Value, emit_vector, kind_of, make_linear, settled
from hearth_backends.onnx.recipe import layer_recipe, padded_head_dim
from hearth_backends.onnx.smoothing import Scaled, Smoothing
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.recipe import LayerRecipe, final_norm, head_matrix
from hearth_backends.weights.rope import RopeTable
from hearth_backends.weights.spec import ModelSpec
from hearth_backends.weights.variant import Variant

ROWS, WANTED = "rows", "wanted"
TAPS = ("attention_inputs", "output_inputs", "mlp_inputs", "down_inputs")
"""What is multiplied with the matrices of a layer: of queries, keys and values, of what attention gives, of
gate and up, and of down; [rows, inputs], heads filled up."""


def build_decoder(
    model: ModelSpec,
    spec: StageSpec,
    variant: Variant,
    kv_scales: F32 | None = None,
    smoothing: Smoothing | None = None,
    *,
    taps: bool = False,
) -> Graph:
    """The graph of a stage; raises Unsupported for a kind of weights that nobody knows.

    With `kv_scales` [layers, keys and values, heads, head_dim] keys and values are 8-bit integers.
    With `taps`, TAPS are outputs of the graph, which has one layer then.
    """
    float_type = np.float16 if spec.weight_kind == "fp16" else np.float32
    decoder = _Decoder(Graph(float_type), model, spec, variant, kv_scales)
    decoder.smoothing = smoothing
    decoder.taps = taps
    decoder.emit()
    return decoder.graph


@dataclass(slots=True)
class _Stream:
    """The residual stream: what was added up, and what a layer has given that is still to be added."""

    sum: str
    pending: str | None = None


class _Decoder:
    """One graph while it is emitted."""

    def __init__(
        self,
        graph: Graph,
        model: ModelSpec,
        spec: StageSpec,
        variant: Variant,
        kv_scales: F32 | None,
    ) -> None:
        self.graph = graph
        self._model = model
        self._spec = spec
        self._variant = variant
        self._kv_scales = kv_scales
        self._kv_type = graph.float_type if kv_scales is None else np.dtype(np.int8)
        self._head_dim = padded_head_dim(model)
        self.smoothing: Smoothing | None = None
        self.taps = False
        self._linears: dict[tuple[str, str], Linear] = {}

    def emit(self) -> None:
        """All of it."""
        graph = self.graph
        x = graph.input("x", np.float32, (ROWS, self._model.d_model))
        stream = _Stream(self._cast(x, graph.float_type))
        for layer in range(self._spec.first, self._spec.last):
            self._layer(stream, layer)
        if self._spec.head:
            self._head(stream)
        else:
            hidden = stream.sum
            if stream.pending is not None:
                hidden = graph.node("Add", [hidden, stream.pending])
            self._output("hidden", hidden, (ROWS, self._model.d_model))

    def _layer(self, stream: _Stream, layer: int) -> None:
        recipe = self._smoothed(layer_recipe(self._model, layer), layer)
        x = self._norm_stream(stream, recipe.input_norm)
        self._tap(TAPS[0], x, self._model.d_model)
        attended = self._attention(x, recipe, layer)
        self._tap(TAPS[1], attended, self._model.n_heads * self._head_dim)
        y = settled(self.graph, self._linear(Value(attended), recipe.output, recipe.output_bias))
        stream.pending = self._norm_or_same(y, recipe.post_attention_norm)
        x = self._norm_stream(stream, recipe.mlp_norm)
        self._tap(TAPS[2], x, self._model.d_model)
        y = settled(self.graph, self._mlp(x, recipe))
        stream.pending = self._norm_or_same(y, recipe.post_mlp_norm)

    def _smoothed(self, recipe: LayerRecipe, layer: int) -> LayerRecipe:
        """What inputs are divided by is in norms, in `up`, and in the columns that they meet."""
        if self.smoothing is None:
            return recipe
        by, offset = self.smoothing.layer(layer), self._variant.norm_offset
        return replace(
            recipe,
            input_norm=Scaled.of(recipe.input_norm, outputs=by.attention, offset=offset),
            qkv=Scaled.of(recipe.qkv, inputs=by.attention),
            mlp_norm=Scaled.of(recipe.mlp_norm, outputs=by.mlp, offset=offset),
            gate=Scaled.of(recipe.gate, inputs=by.mlp),
            up=Scaled.of(recipe.up, inputs=by.mlp, outputs=by.down),
            down=Scaled.of(recipe.down, inputs=by.down),
        )

    def _tap(self, name: str, x: str, width: int) -> None:
        """A value [rows, width] as an output, where somebody looks."""
        if self.taps:
            self.graph.named_node("Identity", [x], [name])
            self.graph.output(name, np.float32, (ROWS, width))

    def _mlp(self, x: str, recipe: LayerRecipe) -> Value:
        gate = settled(self.graph, self._linear(Value(x), recipe.gate))
        up = self._linear(Value(x), recipe.up)
        if self._variant.activation == "silu":
            active = self.graph.node("QuickGelu", [gate], domain=MICROSOFT, alpha=1.0)
        else:
            active = self.graph.node("Gelu", [gate], approximate="tanh")
        product = self.graph.node("Mul", [active, up.name])
        self._tap(TAPS[3], product, self._model.d_ff)
        return self._linear(Value(product, up.row_scale), recipe.down)

    def _head(self, stream: _Stream) -> None:
        graph = self.graph
        wanted = graph.input(WANTED, np.int64, (WANTED,))
        stream.sum = graph.node("Gather", [stream.sum, wanted], axis=0)
        if stream.pending is not None:
            stream.pending = graph.node("Gather", [stream.pending, wanted], axis=0)
        x = self._norm_stream(stream, final_norm(self._model))
        matrix = head_matrix(self._model)
        logits = settled(graph, self._linear(Value(x), matrix, rows=WANTED))
        if self._variant.logit_softcap:
            cap = graph.constant("logit_softcap", self._variant.logit_softcap, graph.float_type)
            logits = graph.node(
                "Mul", [graph.node("Tanh", [graph.node("Div", [logits, cap])]), cap]
            )
        self._output("logits", logits, (WANTED, matrix.n_out))

    # --- attention -----------------------------------------------------------------------------

    def _attention(self, x: str, recipe: LayerRecipe, layer: int) -> str:
        graph, model = self.graph, self._model
        qkv = settled(graph, self._linear(Value(x), recipe.qkv, recipe.qkv_bias))
        q_k_v = self._split_heads(qkv, recipe) if recipe.q_norm is not None else self._packed(qkv)
        shape = ("batch", model.n_kv_heads, "room", self._head_dim)
        keys = graph.input(f"key_{layer}", self._kv_type, shape)
        values = graph.input(f"value_{layer}", self._kv_type, shape)
        lengths = graph.input("lengths", np.int32, ("batch",))
        longest = graph.input("longest", np.int32, ())
        scales, integers = self._kv_quantization(layer)
        outputs = [f"attended_{layer}", f"new_key_{layer}", f"new_value_{layer}"]
        graph.named_node(
            "GroupQueryAttention",
            [*q_k_v, keys, values, lengths, longest, *self._rope_cache(layer), *scales],
            outputs,
            domain=MICROSOFT,
            num_heads=model.n_heads,
            kv_num_heads=model.n_kv_heads,
            do_rotary=1,
            rotary_interleaved=0,
            scale=self._variant.attention_scale,
            softcap=self._variant.attention_softcap,
            local_window_size=self._variant.windows[layer] or -1,
            **integers,
        )
        graph.output(outputs[1], self._kv_type, shape)
        graph.output(outputs[2], self._kv_type, shape)
        width = model.n_heads * self._head_dim
        return graph.node("Reshape", [outputs[0], graph.constant("flat", [-1, width], np.int64)])

    def _kv_quantization(self, layer: int) -> tuple[list[str], dict[str, Any]]:
        """Inputs and attributes of attention over 8-bit keys and values; nothing where they are floats."""
        if self._kv_scales is None:
            return [], {}
        names = []
        for which, name in enumerate(("key_scales", "value_scales")):
            scales = self._kv_scales[layer - self._spec.first, which][None, :, None, :]
            names.append(self.graph.constant(f"{name}_{layer}", scales, np.float32))
        kinds = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
        return ["", "", "", *names], {**kinds, "kv_cache_bit_width": 8}

    def _packed(self, qkv: str) -> list[str]:
        """Queries, keys and values in one tensor, as attention takes them."""
        shape = self.graph.input("shape", np.int64, (3,))
        return [self.graph.node("Reshape", [qkv, shape]), "", ""]

    def _split_heads(self, qkv: str, recipe: LayerRecipe) -> list[str]:
        """Queries and keys with each head normed, and values."""
        graph, dim = self.graph, self._head_dim
        n_q, n_kv = self._model.n_heads * dim, self._model.n_kv_heads * dim
        sizes = graph.constant("qkv_sizes", [n_q, n_kv, n_kv], np.int64)
        q, k, v = graph.node("Split", [qkv, sizes], n_outputs=3, axis=1)
        shape = graph.input("shape", np.int64, (3,))
        two = graph.node("Slice", [shape, *self._axis_range(0, 2)])
        parts = []
        for value, width, norm in (
            (q, n_q, recipe.q_norm),
            (k, n_kv, recipe.k_norm),
            (v, n_kv, None),
        ):
            if norm is not None:
                heads = graph.node("Reshape", [value, graph.constant("heads", [-1, dim], np.int64)])
                value = self._norm(heads, norm)
            last = graph.constant(f"width_{width}", [width], np.int64)
            parts.append(graph.node("Reshape", [value, graph.node("Concat", [two, last], axis=0)]))
        return parts

    def _axis_range(self, first: int, last: int) -> list[str]:
        return [self.graph.constant(f"at_{i}", [i], np.int64) for i in (first, last)]

    def _rope_cache(self, layer: int) -> list[str]:
        """Cosines and sines of every position, one pair for each table of the model."""
        number = self._variant.rope_of[layer]
        table = self._variant.ropes[number]
        width = self._half_width(table)
        names = [f"cos_{number}", f"sin_{number}"]
        if not self.graph.has(names[0]):
            weights = [Weight(n, self.graph.float_type, (self._spec.n_ctx, width)) for n in names]
            # The context decides how many there are: kept, they would be packed for each anew.
            self.graph.bundle(lambda _reader: self._cos_and_sin(table), *weights, is_lasting=False)
        return names

    def _half_width(self, table: RopeTable) -> int:
        """Pairs that turn; where heads are filled up, those that do not turn are among them."""
        n_pairs = len(table.frequencies)
        return n_pairs if self._head_dim == self._model.head_dim else self._head_dim // 2

    def _cos_and_sin(self, table: RopeTable) -> tuple[NDArray[Any], NDArray[Any]]:
        angles = table.angles(self._spec.n_ctx)
        n_still = self._half_width(table) - angles.shape[1]
        angles = np.pad(angles, ((0, 0), (0, n_still)))
        kind = self.graph.float_type
        return (
            (np.cos(angles) * table.magnitude).astype(kind),
            (np.sin(angles) * table.magnitude).astype(kind),
        )

    # --- pieces --------------------------------------------------------------------------------

    def _linear(
        self, x: Value, matrix: Matrix, bias: Matrix | None = None, rows: str = ROWS
    ) -> Value:
        kind = kind_of(self._spec.weight_kind, matrix, self._model)
        linear = self._linears.get((kind, rows))
        if linear is None:
            linear = self._linears[kind, rows] = make_linear(kind, rows)
        return linear.emit(self.graph, x, matrix, bias)

    def _norm_stream(self, stream: _Stream, weights: Matrix) -> str:
        """Add what is pending to the stream, and norm the sum."""
        if stream.pending is None:
            return self._norm(stream.sum, weights)
        name = f"{weights.name}.normed"
        total = f"{weights.name}.sum"
        self.graph.named_node(
            "SkipSimplifiedLayerNormalization",
            [stream.pending, stream.sum, self._norm_weights(weights)],
            [name, "", "", total],
            domain=MICROSOFT,
            epsilon=self._model.norm_eps,
        )
        stream.sum, stream.pending = total, None
        return name

    def _norm(self, x: str, weights: Matrix) -> str:
        return self.graph.node(
            "SimplifiedLayerNormalization",
            [x, self._norm_weights(weights)],
            axis=-1,
            epsilon=self._model.norm_eps,
            stash_type=int(TensorProto.FLOAT),
        )

    def _norm_or_same(self, x: str, weights: Matrix | None) -> str:
        return x if weights is None else self._norm(x, weights)

    def _norm_weights(self, weights: Matrix) -> str:
        return emit_vector(self.graph, weights, self._variant.norm_offset)

    def _cast(self, x: str, dtype: np.dtype[Any]) -> str:
        if self.graph.float_type == np.float32:
            return x
        to = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.FLOAT
        return self.graph.node("Cast", [x], to=int(to))

    def _output(self, name: str, value: str, shape: tuple[str | int, ...]) -> None:
        """A float32 output under a name of its own."""
        if self.graph.float_type == np.float32:
            self.graph.named_node("Identity", [value], [name])
        else:
            self.graph.named_node("Cast", [value], [name], to=int(TensorProto.FLOAT))
        self.graph.output(name, np.float32, shape)
