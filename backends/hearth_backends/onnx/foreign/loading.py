"""Loading a decoder whose graph was made elsewhere, and what it takes; its stage is that of all decoders here."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import I32, Bytes, Progress, StageSpec, Support
from hearth_backends.errors import OutOfMemory, StepError, Unsupported
from hearth_backends.onnx.buckets import choose_buckets
from hearth_backends.onnx.foreign.habits import find_habits
from hearth_backends.onnx.foreign.ports import Ports, find_ports
from hearth_backends.onnx.foreign.runner import SCRATCH_TOKENS, ForeignRunner
from hearth_backends.onnx.memory import SESSION_BYTES
from hearth_backends.onnx.session import FileSession
from hearth_backends.onnx.slots import Slots
from hearth_backends.onnx.stage import CHUNK_ROWS, Embed, Parts
from hearth_backends.weights.decoder_folder import APART, CACHE, read_decoder
from hearth_backends.weights.spec import ModelSpec

KV_DTYPES = ("f16", "f32")
"""Asked for; kept is what the graph has."""
_ITEM_BYTES = {"F32": 4, "F16": 2}


def is_foreign(model: ModelSpec) -> bool:
    """Whether a model generates, with a graph that nobody here has built."""
    return model.format == "onnx" and model.encoding.generates


def foreign_support(model: ModelSpec, spec: StageSpec) -> Support:
    """Whether a stage of it can be loaded."""
    whole = spec.embed and spec.head and (spec.first, spec.last) == (0, model.n_layers)
    if not whole:
        return Support(False, "a model in an ONNX file made elsewhere is one stage: its layers cannot be told apart")  # fmt: skip
    if spec.weight_kind != "file":
        return Support(
            False, f"an ONNX file's weights are as they are stored, not {spec.weight_kind}"
        )
    if spec.kv_dtype not in KV_DTYPES:
        return Support(False, f"keys and values are as the ONNX file has them, not {spec.kv_dtype}")
    return Support(True)


def estimate_foreign_bytes(model: ModelSpec, spec: StageSpec) -> Bytes:
    """Weights twice, since ONNX Runtime packs them anew; logits of a whole prompt; copies of keys and values."""
    cache = model.tensors[CACHE]
    token = math.prod(cache.shape) * _ITEM_BYTES.get(cache.dtype, 4)
    rows = max(min(spec.n_rows, CHUNK_ROWS), spec.n_seq)
    n_copied = max(spec.n_ctx, SCRATCH_TOKENS) if APART in model.tensors else 0
    n_copied = min(n_copied, spec.n_seq * spec.n_ctx)
    widths = 8 * model.d_model + 4 * model.d_ff + model.n_heads * min(spec.n_ctx, 2 * CHUNK_ROWS)
    workspace = 4 * rows * (widths + 2 * model.n_vocab) + 2 * n_copied * token
    return Bytes(2 * model.file_bytes, spec.n_seq * spec.n_ctx * token, workspace + SESSION_BYTES)


def load_foreign(
    model: ModelSpec,
    spec: StageSpec,
    progress: Progress,
    *,
    provider: str,
    on_host: bool,
    compiles: bool,
) -> Parts:
    """Open the graph, and find out what it does by letting it compute.

    `on_host`: what the provider computes lies in the host's memory, so that keys and values can be bound in
    place. Raises ModelFileError, Unsupported, OutOfMemory, BackendError.
    """
    file, config = read_decoder(model)
    ports = find_ports(file, config.names, n_vocab=model.n_vocab, head_dim=model.head_dim)
    slots = _make_slots(ports, spec)
    session = FileSession(file.path, provider, spec.threads)
    progress(0.8)
    n_rows = min(spec.n_rows, CHUNK_ROWS)
    buckets = choose_buckets(spec.n_seq, spec.n_ctx, n_rows) if compiles else None
    runner = ForeignRunner(
        session, slots, ports, in_place=on_host and not compiles, buckets=buckets
    )
    try:
        runner.habits = find_habits(
            runner, n_vocab=model.n_vocab, n_slots=spec.n_seq, alone=ports.alone
        )
    except StepError as error:
        runner.close()
        raise Unsupported(f"{file.path}: it does not compute six tokens: {error}") from error
    except Unsupported as error:
        runner.close()
        raise Unsupported(f"{file.path}: {error}") from error
    except BaseException:
        runner.close()
        raise
    return Parts(
        runner, runner, slots, model.digest, "foreign", model.d_model, ports.n_vocab,
        _numbers(ports.n_vocab),
    )  # fmt: skip


def _make_slots(ports: Ports, spec: StageSpec) -> Slots:
    try:
        return Slots(
            n_layers=len(ports.layers),
            n_slots=spec.n_seq,
            n_heads=ports.n_kv_heads,
            room=spec.n_ctx,
            head_dim=ports.head_dim,
            dtype=ports.kv_dtype,
        )
    except MemoryError as error:
        raise OutOfMemory(f"no memory for keys and values: {error}") from error


def _numbers(n_vocab: int) -> Embed:
    """Tokens enter as they are, once they are known to be some."""

    def check(tokens: I32) -> NDArray[np.int32]:
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < n_vocab:
            raise StepError(f"a token that is not one of {n_vocab}")
        return tokens

    return check
