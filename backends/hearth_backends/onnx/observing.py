"""Observing: the largest activation of every input, layer by layer, while the model reads a text in float32."""

from __future__ import annotations

import importlib.resources
import logging
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
VERSION = 1
"""Goes up when other factors come out of the same model."""


def find_smoothing(
    reader: TensorReader, folder: Path, threads: int, progress: Progress, *, always: bool
) -> Smoothing:
    """What an earlier load found, or what this one finds; one layer is in memory at a time.

    Raises what packing raises, BackendError where the model computes what is no number.
    """
    model = reader.spec
    path = calibration.kept_path(folder, "smooth", f"{VERSION} {N_TOKENS} {always} {model.digest}")
    shape = (model.n_layers, 2 * model.d_model + model.d_ff)
    table = calibration.kept_scales(path, shape)
    if table is None:
        table = _found(reader, threads, progress, always=always)
        try:
            calibration.keep_scales(path, table)
        except (ModelFileError, OutOfMemory) as error:
            log.warning("what was observed of %s is not kept: %s", model.name, error)
    return Smoothing(table, model.d_model)


def _found(reader: TensorReader, threads: int, progress: Progress, *, always: bool) -> F32:
    model = reader.spec
    tokens = _tokens(model)
    x = reader.rows("model.embed_tokens.weight", tokens)
    x = x * np.float32(reader.variant(len(tokens)).token_scale)
    rows = []
    for layer in range(model.n_layers):
        x, peaks = _read_layer(reader, layer, x, threads)
        weights = _column_peaks(reader, layer)
        made = [factors(a, w, always=always) for a, w in zip(peaks, weights, strict=True)]
        rows.append(np.concatenate(made))
        progress((layer + 1) / model.n_layers)
    return np.array(rows, np.float32)


def _tokens(model: ModelSpec) -> I32:
    """Of the text that comes along, as far as the model reads; of a model without words, any."""
    text = importlib.resources.files("hearth_backends.quantizing").joinpath("text.txt").read_text()
    n = min(N_TOKENS, model.context_trained)
    try:
        tokenizer = open_model(str(model.path)).tokenizer
    except (ModelFileError, Unsupported) as error:
        log.warning("activations are observed over random tokens: %s", error)
        return np.random.default_rng(0).integers(0, model.n_vocab, n, np.int32)
    known = tokenizer.encode(text, add_special=True, parse_special=False)
    return np.array(known[:n], np.int32)


def _read_layer(reader: TensorReader, layer: int, x: F32, threads: int) -> tuple[F32, Inputs]:
    """What leaves the layer, and the largest of each input."""
    model, n = reader.spec, len(x)
    spec = StageSpec(
        first=layer, last=layer + 1, embed=False, head=False, n_seq=1, n_ctx=n, n_rows=n,
        kv_tokens=n, kv_dtype="f32", weight_kind="fp32", threads=threads,
    )  # fmt: skip
    graph = build_decoder(model, spec, reader.variant(n), taps=True)
    weights = pack(graph.bundles, reader, None, "", _silent)
    opened = session.Session(graph, weights, session.CPU, threads)
    room = np.zeros((1, model.n_kv_heads, n, padded_head_dim(model)), np.float32)
    width = (model.n_heads + 2 * model.n_kv_heads) * padded_head_dim(model)
    feeds: dict[str, session.Array] = {
        "x": x,
        "lengths": np.array([n - 1], np.int32),
        "longest": np.array(n, np.int32),
        "shape": np.array([1, n, width], np.int64),
        f"key_{layer}": room,
        f"value_{layer}": room,
    }
    try:
        hidden, *peaks = opened.compute_all(feeds, ("hidden", *TAPS))
    except session.RUN_ERRORS as error:
        raise BackendError(f"ONNX Runtime: {error}") from error
    finally:
        opened.close()
    if not all(np.isfinite(values).all() for values in (hidden, *peaks)):
        raise BackendError(f"what layer {layer} of {model.name} computes is not a number")
    return hidden, Inputs(*peaks)


def _silent(_fraction: float) -> None:
    """Nobody need hear of one layer."""


def _column_peaks(reader: TensorReader, layer: int) -> Inputs:
    """The largest weight of each input."""
    recipe = layer_recipe(reader.spec, layer)

    def peaks(*matrices: Matrix) -> F32:
        chunks = (chunk for matrix in matrices for chunk in matrix.chunks(reader))
        largest: F32 = np.max([np.abs(chunk).max(axis=0) for chunk in chunks], axis=0)
        return largest

    return Inputs(peaks(recipe.qkv), peaks(recipe.gate, recipe.up), peaks(recipe.down))
