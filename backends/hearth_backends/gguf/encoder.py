"""GgufEncoder: llama.cpp as an encoder; every text of a batch is a sequence, pooled in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hearth_backends.base import Progress, Support
from hearth_backends.encoder import Encoder, EncoderSpec, Vectors, check_batch, unit_length
from hearth_backends.errors import BackendError, ModelFileError, OutOfMemory, StepError, Unsupported
from hearth_backends.gguf.context import BatchBuffers
from hearth_backends.gguf.encoder_memory import is_exact, n_cells
from hearth_backends.gguf.llama import (
    KV_TYPES,
    MOST_SEQUENCES,
    NO_REASON,
    Model,
    collected_errors,
    is_allocation_failure,
    lib,
)
from hearth_backends.weights.encoding import Pooling
from hearth_backends.weights.gguf_names import ENCODERS
from hearth_backends.weights.spec import ModelSpec

_POOLINGS: dict[Pooling, int] = {
    "mean": lib.LLAMA_POOLING_TYPE_MEAN,
    "cls": lib.LLAMA_POOLING_TYPE_CLS,
    "last": lib.LLAMA_POOLING_TYPE_LAST,
    "rank": lib.LLAMA_POOLING_TYPE_RANK,
}
_YES = "yes"
"""The label of a two-sided head that says how relevant a document is."""


def encoder_support(model: ModelSpec, spec: EncoderSpec) -> Support:
    """Whether llama.cpp, as this backend drives it, encodes with the model."""
    if model.format != "gguf":
        return Support(False, f"it reads GGUF files, not {model.format}")
    if not model.encoding.generates and model.architecture not in ENCODERS:
        return Support(False, f"architecture {model.architecture} turns no texts into vectors")
    if spec.pooling not in _POOLINGS:
        return Support(False, f"pooling {spec.pooling} gives no vector of a text")
    if spec.kv_dtype not in KV_TYPES:
        return Support(False, f"keys and values are {', '.join(KV_TYPES)}, not {spec.kv_dtype}")
    if spec.weight_kind != "file":
        return Support(False, "it computes with weights as the file stores them")
    if spec.n_texts > MOST_SEQUENCES:
        return Support(False, f"at most {MOST_SEQUENCES} texts are computed at once")
    return Support(True)


def load_gguf_encoder(model: ModelSpec, spec: EncoderSpec, progress: Progress) -> GgufEncoder:
    """Load the file and encode one text for warmth; raises ModelFileError, Unsupported, OutOfMemory."""
    support = encoder_support(model, spec)
    if not support.ok:
        raise Unsupported(f"backend gguf: {support.reason}")
    if model.path is None:
        raise ModelFileError(f"{model.name} has no file")
    loaded = Model(str(model.path), progress=progress)
    try:
        pointer = _context(spec, loaded)
    except BaseException:
        loaded.close()
        raise
    try:
        encoder = GgufEncoder(model, spec, loaded, pointer)
        encoder.encode([[0] * min(2, spec.n_ctx)])
    except BaseException:
        lib.llama_free(pointer)
        loaded.close()
        raise
    progress(1.0)
    return encoder


class GgufEncoder(Encoder):
    """One context; a causal model's keys and values are forgotten after each batch."""

    def __init__(self, model: ModelSpec, spec: EncoderSpec, loaded: Model, context: Any) -> None:
        """Owns the loaded model and its context from now on; raises Unsupported for what is no reranker."""
        self.spec = spec
        self._score: int | None = None  # of the head's outputs; None: there is one
        self._n_out = int(lib.llama_model_n_embd_out(loaded.pointer))
        if spec.task == "rerank":
            self._n_out = int(lib.llama_model_n_cls_out(loaded.pointer))
            if self._n_out > 1:
                self._score = _relevance_label(model, self._n_out)
        self.dim = 1 if spec.task == "rerank" else self._n_out
        self._model = loaded
        self._pointer = context
        self._memory: Any = lib.llama_get_memory(context)
        self._buffers = BatchBuffers(spec.n_rows, None)
        self._buffers.outputs[:] = 1

    def encode(
        self, token_lists: Sequence[Sequence[int]], seconds: Sequence[int | None] = ()
    ) -> Vectors:
        """See Encoder; llama.cpp takes every token for one of the first text of a pair."""
        lengths = check_batch(self.spec, token_lists, self._model.n_vocab)
        n_rows, at = sum(lengths), 0
        buffers = self._buffers
        for seq, (tokens, length) in enumerate(zip(token_lists, lengths, strict=True)):
            rows = slice(at, at + length)
            buffers.tokens[rows] = tokens
            buffers.pos[rows] = np.arange(length)
            buffers.seq[rows] = seq
            at += length
        if self._memory:
            lib.llama_memory_clear(self._memory, False)
        buffers.struct.n_tokens = n_rows
        with collected_errors() as errors:
            code = int(lib.llama_decode(self._pointer, buffers.struct))
        if code:
            kind = BackendError if code < -1 else StepError
            raise kind(f"llama.cpp computed no vectors ({code}): {'; '.join(errors) or NO_REASON}")
        found = self._read(len(lengths))
        if not np.isfinite(found).all():
            raise StepError("a vector is not finite")
        return self._relevance(found) if self.spec.task == "rerank" else unit_length(found)

    def close(self) -> None:
        """See Encoder."""
        if self._pointer is not None:
            lib.llama_free(self._pointer)
            self._pointer = self._memory = None
            self._model.close()

    def _read(self, n: int) -> Vectors:
        found = np.empty((n, self._n_out), np.float32)
        for seq in range(n):
            pointer = lib.llama_get_embeddings_seq(self._pointer, seq)
            if not pointer:
                raise BackendError(f"llama.cpp has no vector of text {seq}")
            found[seq] = np.ctypeslib.as_array(pointer, (self._n_out,))
        return found

    def _relevance(self, outputs: Vectors) -> Vectors:
        """[n, 1] from what the head says: a logit, or the probability of its label."""
        if self._score is not None:
            return np.clip(outputs[:, self._score, None], 0, 1)
        return (1 / (1 + np.exp(-outputs.astype(np.float64)))).astype(np.float32)


def _relevance_label(model: ModelSpec, n_out: int) -> int:
    """Which of several outputs says that a document is relevant; raises Unsupported."""
    labels = [label.strip().lower() for label in model.encoding.labels]
    # Of these heads llama.cpp makes probabilities; of others they are bare logits of classes.
    if model.architecture in TWO_SIDED and n_out == 2 and _YES in labels:
        return labels.index(_YES)
    raise Unsupported(
        f"{model.name} sorts texts into {n_out} classes ({', '.join(model.encoding.labels) or 'unnamed'}); "
        "a reranker has one score"
    )


TWO_SIDED = frozenset({"qwen3", "qwen3vl"})
"""Architectures whose rerankers say yes or no."""


def _context(spec: EncoderSpec, loaded: Model) -> Any:
    params = lib.llama_context_default_params()
    params.embeddings = True
    params.pooling_type = _POOLINGS[spec.pooling]
    params.n_ctx = n_cells(spec)
    params.n_batch = params.n_ubatch = params.n_outputs_max = spec.n_rows
    params.n_seq_max = spec.n_texts
    params.n_threads = params.n_threads_batch = spec.threads
    params.kv_unified = True
    params.type_k = params.type_v = KV_TYPES[spec.kv_dtype]
    if is_exact(spec):
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
    with collected_errors() as errors:
        pointer = lib.llama_init_from_model(loaded.pointer, params)
    if not pointer:
        kind = OutOfMemory if is_allocation_failure(errors) else Unsupported
        raise kind(f"llama.cpp made no context: {'; '.join(errors) or NO_REASON}")
    return pointer
