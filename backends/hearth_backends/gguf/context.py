"""A llama.cpp context and the batches it computes: key-value memory by rows, logits and layer inputs as arrays."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import F32, I32
from hearth_backends.errors import BackendError, OutOfMemory, Unsupported
from hearth_backends.gguf.llama import (
    KV_TYPES,
    NO_REASON,
    Model,
    collected_errors,
    get_layer_input,
    is_allocation_failure,
    lib,
    set_layer_input,
)

State: TypeAlias = NDArray[np.uint8]
"""What llama.cpp keeps of one sequence, in its own format."""


class BatchBuffers:
    """A llama_batch over NumPy arrays that live as long as it does; its pointers are set once."""

    def __init__(self, n_rows: int, d_model: int | None) -> None:
        """Room for `n_rows` tokens, or vectors of `d_model`."""
        self.tokens: I32 = np.zeros(n_rows, np.int32)
        self.vectors: F32 | None = (
            None if d_model is None else np.zeros((n_rows, d_model), np.float32)
        )
        self.pos: I32 = np.zeros(n_rows, np.int32)
        self.seq: I32 = np.zeros(n_rows, np.int32)
        self.outputs: NDArray[np.int8] = np.zeros(n_rows, np.int8)
        self._n_seq: I32 = np.ones(n_rows, np.int32)
        addresses = self.seq.ctypes.data + self.seq.itemsize * np.arange(n_rows)
        self._seq_pointers: NDArray[np.uint64] = addresses.astype(np.uint64)
        types = dict(lib.llama_batch._fields_)
        self.struct: Any = lib.llama_batch()
        fields: dict[str, NDArray[Any]] = {
            "pos": self.pos,
            "n_seq_id": self._n_seq,
            "seq_id": self._seq_pointers,
            "logits": self.outputs,
        }
        if self.vectors is None:
            fields["token"] = self.tokens
        else:
            fields["embd"] = self.vectors
        for field, array in fields.items():
            setattr(self.struct, field, ctypes.cast(array.ctypes.data, types[field]))


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """Sizes of a context; see llama_context_params."""

    n_cells: int
    n_rows: int
    n_seq: int
    n_outputs: int
    kv_dtype: str
    threads: int
    flash_attention: bool
    kv_unified: bool = True  # one pool of cells; otherwise one for each sequence


class Context:
    """A model's key-value memory and compute buffers; closed by `close`, before its model."""

    def __init__(self, model: Model, options: ContextOptions, node_callback: Any = None) -> None:
        """`node_callback` (tensor, ask, user_data) -> bool sees every node of the graph; it is slow.

        Raises OutOfMemory, Unsupported.
        """
        self.model = model
        params = lib.llama_context_default_params()
        params.n_ctx = options.n_cells
        params.n_batch = params.n_ubatch = options.n_rows
        params.n_seq_max = options.n_seq
        params.n_outputs_max = options.n_outputs
        # With more than one row llama.cpp uses the second count, whatever the rows are.
        params.n_threads = params.n_threads_batch = options.threads
        params.type_k = params.type_v = KV_TYPES[options.kv_dtype]
        if not options.flash_attention:
            params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.kv_unified = options.kv_unified
        self._callback: Any = None
        if node_callback is not None:
            self._callback = lib.ggml_backend_sched_eval_callback(node_callback)
            params.cb_eval = self._callback
        with collected_errors() as errors:
            pointer = lib.llama_init_from_model(model.pointer, params)
        if not pointer:
            kind = OutOfMemory if is_allocation_failure(errors) else Unsupported
            raise kind(f"llama.cpp made no context: {'; '.join(errors) or NO_REASON}")
        self.pointer: Any = pointer
        self._memory: Any = lib.llama_get_memory(pointer)
        self._is_one_pool = options.kv_unified

    def decode(self, batch: BatchBuffers, n_rows: int) -> int:
        """Compute the first rows of the batch; llama_decode's return code (0: done)."""
        batch.struct.n_tokens = n_rows
        return int(lib.llama_decode(self.pointer, batch.struct))

    def logits(self, n_outputs: int) -> F32:
        """Logits of the rows marked as outputs, in batch order [n_outputs, n_vocab]; valid until `decode`."""
        pointer = lib.llama_get_logits(self.pointer)
        return np.ctypeslib.as_array(pointer, (n_outputs, self.model.n_vocab))

    def keep_layer_input(self, layer: int) -> None:
        """Keep what enters `layer` from now on; the architecture must record it, or llama.cpp aborts."""
        set_layer_input(self.pointer, layer, True)

    def layer_input(self, layer: int, n_rows: int) -> F32:
        """What entered a kept layer, in batch order [n_rows, d_model]; valid until `decode`."""
        pointer = get_layer_input(self.pointer, layer)
        return np.ctypeslib.as_array(pointer, (n_rows, self.model.d_model))

    def truncate(self, seq: int, n_tokens: int) -> None:
        """The sequence keeps its first tokens; raises BackendError where the memory cannot do that."""
        if not lib.llama_memory_seq_rm(self._memory, seq, n_tokens, -1):
            raise BackendError(f"llama.cpp cannot cut row {seq} to {n_tokens} tokens")

    def fork(self, src: int, dst: int, n_tokens: int) -> None:
        """Sequence dst becomes the first tokens of src.

        In one pool cells are shared and nothing is copied; otherwise the next `decode` copies all of
        src before it computes, and `save` of dst has to wait for that.
        """
        self.truncate(dst, 0)
        if self._is_one_pool and n_tokens:
            lib.llama_memory_seq_cp(self._memory, src, dst, 0, n_tokens)
        elif n_tokens:
            lib.llama_memory_seq_cp(self._memory, src, dst, -1, -1)
            self.truncate(dst, n_tokens)

    def length(self, seq: int) -> int:
        """Tokens in a sequence."""
        return int(lib.llama_memory_seq_pos_max(self._memory, seq)) + 1

    def clear(self) -> None:
        """Forget every sequence."""
        lib.llama_memory_clear(self._memory, True)

    def save(self, seq: int) -> State:
        """The state of a sequence in llama.cpp's own format."""
        state = np.empty(int(lib.llama_state_seq_get_size(self.pointer, seq)), np.uint8)
        written = lib.llama_state_seq_get_data(self.pointer, _bytes_of(state), state.size, seq)
        return state[: int(written)]

    def load(self, seq: int, state: State) -> bool:
        """Put a saved state into an empty sequence; False where llama.cpp refuses it."""
        with collected_errors():
            return bool(
                lib.llama_state_seq_set_data(self.pointer, _bytes_of(state), state.size, seq)
            )

    def close(self) -> None:
        """Free it; idempotent."""
        if self.pointer is not None:
            lib.llama_free(self.pointer)
            self.pointer = self._memory = None


def _bytes_of(state: State) -> Any:
    return state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
