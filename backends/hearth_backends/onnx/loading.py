"""Loading: from a model's description to the parts of a stage."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from hearth_backends.base import F32, I32, Hidden, Progress, StageSpec
from hearth_backends.errors import BackendError, OutOfMemory, StepError
from hearth_backends.onnx import calibration, session
from hearth_backends.onnx.decoder import build_decoder
from hearth_backends.onnx.kinds import ALWAYS_SMOOTHED, SMOOTHED, phases
from hearth_backends.onnx.memory import packed_bytes
from hearth_backends.onnx.observing import find_smoothing
from hearth_backends.onnx.packing import default_folder, pack
from hearth_backends.onnx.recipe import padded_head_dim
from hearth_backends.onnx.runner import Runner, Widths
from hearth_backends.onnx.slots import Slots
from hearth_backends.onnx.smoothing import Smoothing
from hearth_backends.onnx.stage import Embed, Parts
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.reader import TensorReader
from hearth_backends.weights.recipe import head_matrix
from hearth_backends.weights.spec import ModelSpec

OBSERVING_SHARE = 0.3
"""Of the time to pack weights the first time, what it takes to look for outliers before."""
BYTES_PER_THREAD = 8 << 20
"""Weights that keep one thread busy for a step; with fewer, threads mostly wait for each other."""


def is_whole(model: ModelSpec, spec: StageSpec) -> bool:
    """Whether a stage is the whole model, from tokens to samples."""
    return spec.embed and spec.head and (spec.first, spec.last) == (0, model.n_layers)


def useful_threads(model: ModelSpec, spec: StageSpec) -> int:
    """The threads asked for, or as many as the weights of the range keep busy."""
    return max(1, min(spec.threads, packed_bytes(model, spec) // BYTES_PER_THREAD))


def load_parts(model: ModelSpec, spec: StageSpec, progress: Progress) -> Parts:
    """Build the graph, pack the weights or map what was packed before, and compute one step.

    Raises ModelFileError, Unsupported, OutOfMemory, BackendError.
    """
    reader = open_reader(model)
    folder = default_folder(os.environ)
    embed = _embedder(reader, spec) if spec.embed else None
    scales = None
    if spec.kv_dtype == "q8_0" and embed is not None:
        scales = _kv_scales(reader, spec, embed, folder, progress)
    slots = _make_slots(model, spec, scales)
    runners = _make_runners(reader, spec, slots, scales, folder, progress)
    version = "" if scales is None else hashlib.sha256(scales.tobytes()).hexdigest()[:16]
    return Parts(
        runners[0], runners[-1], slots, model.digest, version, model.d_model, model.n_vocab, embed
    )


def _make_runners(
    reader: TensorReader,
    spec: StageSpec,
    slots: Slots,
    scales: F32 | None,
    folder: Path,
    progress: Progress,
) -> list[Runner]:
    """One for each set of weights, over the same keys and values, warmed up."""
    runners: list[Runner] = []
    kinds = phases(spec.weight_kind)
    try:
        for i, kind in enumerate(kinds):
            share = partial(_share, progress, i, len(kinds))
            one = replace(spec, weight_kind=kind)
            runner = _make_runner(reader, one, slots, scales, folder, share)
            runners.append(runner)
            _warm_up(runner, reader.spec, spec)
    except BaseException:
        for runner in runners:
            runner.close()
        raise
    return runners


def _share(progress: Progress, i: int, n: int, part: float) -> None:
    """Of n things that take about as long, the i-th is so far."""
    progress((i + part) / n)


def _make_slots(model: ModelSpec, spec: StageSpec, scales: F32 | None) -> Slots:
    kind = np.float16 if spec.weight_kind == "fp16" else np.float32
    try:
        return Slots(
            n_layers=spec.last - spec.first,
            n_slots=spec.n_seq,
            n_heads=model.n_kv_heads,
            room=spec.n_ctx,
            head_dim=padded_head_dim(model),
            dtype=np.dtype(kind if scales is None else np.int8),
        )
    except MemoryError as error:
        raise OutOfMemory(f"no memory for keys and values: {error}") from error


def _make_runner(
    reader: TensorReader,
    spec: StageSpec,
    slots: Slots,
    scales: F32 | None,
    folder: Path,
    progress: Progress,
) -> Runner:
    model = reader.spec
    smoothing = _smoothing(reader, spec, folder, lambda part: progress(OBSERVING_SHARE * part))
    graph = build_decoder(model, spec, reader.variant(spec.n_ctx), scales, smoothing)
    made_of = f"{_fingerprint(model, spec)} {smoothing.digest if smoothing else ''}".strip()
    begin = OBSERVING_SHARE if spec.weight_kind in SMOOTHED else 0.0
    weights = pack(
        graph.bundles, reader, folder, made_of, lambda part: progress(begin + (1 - begin) * part)
    )
    opened = session.Session(graph, weights, session.CPU, useful_threads(model, spec))
    n_heads = model.n_heads + 2 * model.n_kv_heads
    widths = Widths(
        d_model=model.d_model,
        qkv=n_heads * padded_head_dim(model),
        n_out=head_matrix(model).n_out if spec.head else model.d_model,
        layers=tuple(range(spec.first, spec.last)),
        has_head=spec.head,
    )
    return Runner(opened, slots, widths)


def _fingerprint(model: ModelSpec, spec: StageSpec) -> str:
    return f"{model.digest} {spec.weight_kind}"


def _smoothing(
    reader: TensorReader, spec: StageSpec, folder: Path, progress: Progress
) -> Smoothing | None:
    """Where a kind asks for it; as far as this model has outliers, unless it is asked for by name."""
    if spec.weight_kind not in SMOOTHED:
        return None
    always = spec.weight_kind == ALWAYS_SMOOTHED
    found = find_smoothing(reader, folder, spec.threads, progress, always=always)
    return found if found.digest else None


def _kv_scales(
    reader: TensorReader, spec: StageSpec, embed: Embed, folder: Path, progress: Progress
) -> F32:
    """What an earlier load found, or what this one finds with keys and values in float32."""
    model = reader.spec
    spec = replace(spec, weight_kind=phases(spec.weight_kind)[0])
    shape = (model.n_layers, 2, model.n_kv_heads, padded_head_dim(model))
    path = calibration.scales_path(folder, _fingerprint(model, spec))
    kept = calibration.kept_scales(path, shape)
    if kept is not None:
        return kept
    n_seq, n_ctx = calibration.N_TEXTS, calibration.N_TOKENS
    apart = replace(spec, kv_dtype="f32", n_seq=n_seq, n_rows=n_seq, n_ctx=n_ctx)
    slots = _make_slots(model, apart, None)
    runner = _make_runner(reader, apart, slots, None, folder, lambda part: progress(part / 2))
    try:
        first = model.bos_id if model.bos_id is not None else 0
        scales = calibration.calibrate(runner, slots, embed, first, model.n_vocab)
    finally:
        runner.close()
    calibration.keep_scales(path, scales)
    return scales


def _embedder(reader: TensorReader, spec: StageSpec) -> Embed:
    """Looks tokens up in the mapped file."""
    n_vocab = reader.spec.n_vocab
    scale = np.float32(reader.variant(spec.n_ctx).token_scale)

    def embed(tokens: I32) -> Hidden:
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < n_vocab:
            raise StepError(f"a token that is not one of {n_vocab}")
        rows = reader.rows("model.embed_tokens.weight", tokens)
        return rows if scale == 1 else rows * scale

    return embed


def _warm_up(runner: Runner, model: ModelSpec, spec: StageSpec) -> None:
    """One run, then forgotten: the first page faults are paid here, and results are numbers.

    Raises BackendError where they are not.
    """
    n = min(2, spec.n_rows, spec.n_ctx)
    x = np.ones((n, model.d_model), np.float32)
    out = runner.run(0, n, [0], x, np.array([n - 1]))
    if not np.isfinite(out).all():
        raise BackendError(f"what comes out of {model.name} is not a number")
