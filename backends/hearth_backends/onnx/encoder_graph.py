"""The graph of a BERT-like encoder, from its safetensors; inputs are named as exporters name them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.onnx.graph import MICROSOFT, Graph, Weight
from hearth_backends.onnx.packing import Packed
from hearth_backends.weights.encoder_config import EncoderConfig
from hearth_backends.weights.safetensors_file import SafetensorsFile

F32 = NDArray[np.float32]

HIDDEN = "last_hidden_state"
LOGITS = "logits"
ACTIVATIONS = {"gelu": "BiasGelu", "gelu_new": "FastGelu", "gelu_pytorch_tanh": "FastGelu"}
"""`hidden_act` to the operator that adds the bias and applies it."""

_EMBEDDING = "embeddings.word_embeddings.weight"
_LONG = np.int64


def build_encoder(config: EncoderConfig, file: SafetensorsFile) -> tuple[Graph, Packed]:
    """The graph and its weights as float32; raises ModelFileError for a tensor that is missing."""
    return _Builder(config, file).build()


class _Builder:
    """Adds nodes from the embedding to the last layer, and the head of a reranker."""

    def __init__(self, config: EncoderConfig, file: SafetensorsFile) -> None:
        self._config = config
        self._file = file
        self._graph = Graph()
        self._arrays: dict[str, F32] = {}
        self._prefix = _prefix(file)

    def build(self) -> tuple[Graph, Packed]:
        config, graph = self._config, self._graph
        if config.activation not in ACTIVATIONS:
            raise Unsupported(
                f"{self._file.path}: an activation of the kind {config.activation!r:.40}"
            )
        mask = graph.node("Cast", [graph.input("attention_mask", _LONG, ("n", "m"))], to=6)  # int32
        x = self._embed()
        for layer in range(config.n_layers):
            x = self._layer(f"{self._prefix}encoder.layer.{layer}.", x, mask)
        if config.encoding.ranks:
            graph.named_node("Identity", [self._score(x)], [LOGITS])
            graph.output(LOGITS, np.float32, ("n", len(config.encoding.labels)))
        else:
            graph.named_node("Identity", [x], [HIDDEN])
            graph.output(HIDDEN, np.float32, ("n", "m", config.d_model))
        return graph, Packed(self._arrays, {})

    def _embed(self) -> str:
        graph, prefix = self._graph, f"{self._prefix}embeddings."
        x = self._look_up(f"{prefix}word_embeddings", "input_ids")
        x = graph.node("Add", [x, self._look_up(f"{prefix}position_embeddings", "position_ids")])
        if self._config.n_types > 1:
            types = self._look_up(f"{prefix}token_type_embeddings", "token_type_ids")
        else:
            types = self._weight(f"{prefix}token_type_embeddings.weight")
        return self._norm(f"{prefix}LayerNorm", graph.node("Add", [x, types]))

    def _look_up(self, name: str, ids: str) -> str:
        """[n, m, d_model] rows of an embedding."""
        given = self._graph.input(ids, _LONG, ("n", "m"))
        return self._graph.node("Gather", [self._weight(f"{name}.weight"), given], axis=0)

    def _layer(self, prefix: str, x: str, mask: str) -> str:
        graph, inner = self._graph, f"{prefix}attention.self."
        parts = ("query", "key", "value")
        matrix = self._made(f"{inner}qkv.weight", lambda: np.concatenate(
            [self._tensor(f"{inner}{part}.weight").T for part in parts], axis=1
        ))  # fmt: skip
        bias = self._made(f"{inner}qkv.bias", lambda: np.concatenate(
            [self._tensor(f"{inner}{part}.bias") for part in parts]
        ))  # fmt: skip
        mixed = graph.node(
            "Attention", [x, matrix, bias, mask], domain=MICROSOFT, num_heads=self._config.n_heads
        )
        x = self._add_norm(f"{prefix}attention.output.", mixed, x)
        up = graph.node("MatMul", [x, self._matrix(f"{prefix}intermediate.dense")])
        activated = graph.node(
            ACTIVATIONS[self._config.activation],
            [up, self._weight(f"{prefix}intermediate.dense.bias")],
            domain=MICROSOFT,
        )
        return self._add_norm(f"{prefix}output.", activated, x)

    def _add_norm(self, prefix: str, x: str, skip: str) -> str:
        """A linear layer of x, and the norm of it with what it goes around."""
        linear = self._graph.node("MatMul", [x, self._matrix(f"{prefix}dense")])
        norm = [self._weight(f"{prefix}LayerNorm.{part}") for part in ("weight", "bias")]
        return self._graph.node(
            "SkipLayerNormalization",
            [linear, skip, *norm, self._weight(f"{prefix}dense.bias")],
            domain=MICROSOFT,
            epsilon=self._config.norm_eps,
        )

    def _norm(self, name: str, x: str) -> str:
        parts = [self._weight(f"{name}.{part}") for part in ("weight", "bias")]
        return self._graph.node(
            "LayerNormalization", [x, *parts], axis=-1, epsilon=self._config.norm_eps
        )

    def _score(self, x: str) -> str:
        """[n, labels] from the first token: through BERT's pooler, or RoBERTa's own head."""
        at = self._graph.constant("first_token", 0, _LONG)
        first = self._graph.node("Gather", [x, at], axis=1)
        is_bert = self._config.architecture == "bert"
        dense = f"{self._prefix}pooler.dense" if is_bert else "classifier.dense"
        last = "classifier" if is_bert else "classifier.out_proj"
        return self._linear(last, self._graph.node("Tanh", [self._linear(dense, first)]))

    def _linear(self, name: str, x: str) -> str:
        product = self._graph.node("MatMul", [x, self._matrix(name)])
        return self._graph.node("Add", [product, self._weight(f"{name}.bias")])

    # --- weights -------------------------------------------------------------------------------

    def _matrix(self, name: str) -> str:
        """[in, out]."""
        return self._made(f"{name}.transposed", lambda: self._tensor(f"{name}.weight").T)

    def _weight(self, name: str) -> str:
        return self._made(name, lambda: self._tensor(name))

    def _made(self, name: str, make: Callable[[], F32]) -> str:
        array = self._arrays[name] = np.ascontiguousarray(make(), np.float32)
        weight = Weight(name, array.dtype, array.shape)
        return self._graph.bundle(lambda _reader: (array,), weight)[0]

    def _tensor(self, name: str) -> F32:
        # Checkpoints that came from TensorFlow call a norm's parts by other names.
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
        for stored in (name, old):
            if stored in self._file.tensors:
                return self._file.tensor(stored)
        raise ModelFileError(f"{self._file.path}: there is no tensor {name}")


def _prefix(file: SafetensorsFile) -> str:
    """What stands before the names of the encoder's tensors: "bert.", "roberta.", or nothing."""
    for name in file.tensors:
        if name.endswith(_EMBEDDING):
            return name.removesuffix(_EMBEDDING)
    raise ModelFileError(f"{file.path}: there is no tensor {_EMBEDDING}")
