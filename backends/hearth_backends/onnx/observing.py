"""Observing: what the matrices of each layer are multiplied with while the model reads a text in float32."""

from __future__ import annotations

import importlib.resources
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hearth_backends.base import F32, I32, Progress, StageSpec
from hearth_backends.errors import BackendError, ModelFileError, OutOfMemory, Unsupported
from hearth_backends.onnx import calibration, session
from hearth_backends.onnx.decoder import TAPS, build_decoder
from hearth_backends.onnx.packing import pack
from hearth_backends.onnx.recipe import padded_head_dim
from hearth_backends.onnx.smoothing import Inputs, Smoothing, factors
from hearth_backends.registry import open_model
from hearth_backends.weights.matrix import Matrix
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.recipe import layer_recipe
from hearth_backends.weights.spec import ModelSpec

log = logging.getLogger(__name__)

N_TOKENS = 192
VERSION = 2
"""Goes up when other factors come out of the same model."""

_USERS: Mapping[str, tuple[str, ...]] = {
    TAPS[0]: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj"),
    TAPS[1]: ("self_attn.o_proj",),
    TAPS[2]: ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
    TAPS[3]: ("mlp.down_proj",),
}
"""The tensors that each of TAPS is multiplied with."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Of one layer, over all tokens of the texts."""

    attention: F32  # [n, d_model]
    output: F32  # [n, n_heads * head_dim]
    mlp: F32  # [n, d_model]
    down: F32  # [n, d_ff]

    def by_tensor(self, layer: int) -> dict[str, F32]:
        """By canonical names of the matrices."""
        values = (self.attention, self.output, self.mlp, self.down)
        return {
            f"model.layers.{layer}.{name}.weight": value
            for value, tap in zip(values, TAPS, strict=True)
            for name in _USERS[tap]
        }


def observe(reader: TensorReader, texts: Sequence[I32], threads: int) -> Iterator[Observed]:
    """Layer after layer, of which one is in memory at a time; raises what packing raises, BackendError."""
    scale = np.float32(reader.variant(max(map(len, texts))).token_scale)
    streams = [reader.rows("model.embed_tokens.weight", text) * scale for text in texts]
    for layer in range(reader.spec.n_layers):
        with _Layer(reader, layer, max(map(len, texts)), threads) as opened:
            found = [opened.read(x) for x in streams]
        streams = [hidden for hidden, *_ in found]
        taps = [np.concatenate(parts) for parts in zip(*(rest for _, *rest in found), strict=True)]
        yield Observed(taps[0], _unfilled(taps[1], reader.spec), taps[2], taps[3])


def _unfilled(values: F32, model: ModelSpec) -> F32:
    """Of heads that were filled up, what belongs to the model."""
    heads = values.reshape(len(values), model.n_heads, padded_head_dim(model))
    return heads[:, :, : model.head_dim].reshape(len(values), -1)


class _Layer:
    """One layer in a session of its own, in float32."""

    def __init__(self, reader: TensorReader, layer: int, n_rows: int, threads: int) -> None:
        model = reader.spec
        spec = StageSpec(
            first=layer, last=layer + 1, embed=False, head=False, n_seq=1, n_ctx=n_rows,
            n_rows=n_rows, kv_tokens=n_rows, kv_dtype="f32", weight_kind="fp32", threads=threads,
        )  # fmt: skip
        graph = build_decoder(model, spec, reader.variant(n_rows), taps=True)
        weights = pack(graph.bundles, reader, None, "", lambda _fraction: None)
        self._session = session.Session(graph, weights, session.CPU, threads)
        self._model, self._layer = model, layer

    def __enter__(self) -> _Layer:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def read(self, x: F32) -> list[F32]:
        """What leaves the layer, then TAPS; of one text."""
        n, model = len(x), self._model
        room = np.zeros((1, model.n_kv_heads, n, padded_head_dim(model)), np.float32)
        width = (model.n_heads + 2 * model.n_kv_heads) * padded_head_dim(model)
        feeds: dict[str, session.Array] = {
            "x": x,
            "lengths": np.array([n - 1], np.int32),
            "longest": np.array(n, np.int32),
            "shape": np.array([1, n, width], np.int64),
            f"key_{self._layer}": room,
            f"value_{self._layer}": room,
        }
        try:
            found = self._session.compute_all(feeds, ("hidden", *TAPS))
        except session.RUN_ERRORS as error:
            raise BackendError(f"ONNX Runtime: {error}") from error
        if not all(np.isfinite(values).all() for values in found):
            raise BackendError(f"what layer {self._layer} of {model.name} computes is no number")
        return found


# --- smoothing ---------------------------------------------------------------------------------


def find_smoothing(
    reader: TensorReader, folder: Path, threads: int, progress: Progress, *, always: bool
) -> Smoothing:
    """What an earlier load found, or what this one finds; raises as `observe` does."""
    model = reader.spec
    path = calibration.kept_path(folder, "smooth", f"{VERSION} {N_TOKENS} {always} {model.digest}")
    shape = (model.n_layers, 2 * model.d_model + model.d_ff)
    table = calibration.kept_scales(path, shape)
    if table is None:
        table = _find(reader, threads, progress, always=always)
        try:
            calibration.keep_scales(path, table)
        except (ModelFileError, OutOfMemory) as error:
            log.warning("what was observed of %s is not kept: %s", model.name, error)
    return Smoothing(table, model.d_model)


def _find(reader: TensorReader, threads: int, progress: Progress, *, always: bool) -> F32:
    rows = []
    for layer, seen in enumerate(observe(reader, [_tokens(reader.spec)], threads)):
        largest = [np.abs(values).max(axis=0) for values in (seen.attention, seen.mlp, seen.down)]
        weights = _column_peaks(reader, layer)
        made = [factors(a, w, always=always) for a, w in zip(largest, weights, strict=True)]
        rows.append(np.concatenate(made))
        progress((layer + 1) / reader.spec.n_layers)
    return np.array(rows, np.float32)


def _tokens(model: ModelSpec) -> I32:
    """Of the text that comes along, as far as the model reads; of a model without words, any."""
    n = min(N_TOKENS, model.context_trained)
    try:
        tokenizer = open_model(str(model.path)).tokenizer
    except (ModelFileError, Unsupported) as error:
        log.warning("activations are observed over random tokens: %s", error)
        return np.random.default_rng(0).integers(0, model.n_vocab, n, np.int32)
    file = importlib.resources.files("hearth_backends.quantizing") / "calibration.txt"
    known = tokenizer.encode(file.read_text(), add_special=True, parse_special=True)
    return np.array(known[:n], np.int32)


def _column_peaks(reader: TensorReader, layer: int) -> Inputs:
    """The largest weight of each input."""
    recipe = layer_recipe(reader.spec, layer)

    def peaks(*matrices: Matrix) -> F32:
        chunks = (chunk for matrix in matrices for chunk in matrix.chunks(reader))
        largest: F32 = np.max([np.abs(chunk).max(axis=0) for chunk in chunks], axis=0)
        return largest

    return Inputs(peaks(recipe.qkv), peaks(recipe.gate, recipe.up), peaks(recipe.down))
