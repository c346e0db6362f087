"""Bare llama.cpp: one context, one batch, `llama_decode`, nothing else. What an engine is measured against."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


class BareLlama:
    """A model and a context for `n_seq` sequences; use as a context manager."""

    def __init__(
        self,
        path: Path,
        *,
        n_seq: int = 1,
        n_ctx: int = 2048,
        n_rows: int = 512,
        threads: int = 1,
        unified: bool = True,
    ) -> None:
        """`n_ctx` is over all sequences; raises OSError where the file does not load."""
        from hearth_backends.gguf.llama import lib  # checked, with its log in Python's

        self._api: Any = lib
        options = lib.llama_model_default_params()
        options.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(str(path).encode(), options)
        if not self._model:
            raise OSError(f"llama.cpp does not load {path}")
        room = lib.llama_context_default_params()
        room.n_ctx, room.n_batch, room.n_ubatch, room.n_seq_max = n_ctx, n_rows, n_rows, n_seq
        room.n_threads = room.n_threads_batch = threads
        room.kv_unified = unified
        self._context = lib.llama_init_from_model(self._model, room)
        if not self._context:
            lib.llama_model_free(self._model)
            raise OSError(f"llama.cpp makes no context of {n_ctx} tokens for {path}")
        self._memory = lib.llama_get_memory(self._context)
        self.n_vocab: int = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._rows(n_rows)

    def _rows(self, n_rows: int) -> None:
        """A batch over NumPy memory, its pointers set once."""
        self._token = np.zeros(n_rows, np.int32)
        self._pos = np.zeros(n_rows, np.int32)
        self._n_seq = np.ones(n_rows, np.int32)
        self._seq = np.zeros(n_rows, np.int32)
        self._want = np.zeros(n_rows, np.int8)
        first = self._seq.ctypes.data
        self._seq_pointers = np.arange(n_rows, dtype=np.uint64) * self._seq.itemsize + first
        batch = self._api.llama_batch()
        for name, array in (
            ("token", self._token),
            ("pos", self._pos),
            ("n_seq_id", self._n_seq),
            ("seq_id", self._seq_pointers),
            ("logits", self._want),
        ):
            kind = dict(batch._fields_)[name]
            setattr(batch, name, ctypes.cast(array.ctypes.data, kind))
        self._batch = batch

    def __enter__(self) -> BareLlama:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def clear(self) -> None:
        """Forget all sequences."""
        self._api.llama_memory_clear(self._memory, True)

    def prefill(self, seq: int, tokens: Sequence[int]) -> int:
        """Compute a prompt from position 0; returns the likeliest next token."""
        n_most = len(self._token)
        for start in range(0, len(tokens), n_most):
            part = tokens[start : start + n_most]
            n = len(part)
            self._token[:n] = part
            self._pos[:n] = np.arange(start, start + n)
            self._seq[:n] = seq
            self._want[:n] = 0
            self._want[n - 1] = 1
            self._decode(n)
        return int(self.logits((len(tokens) - 1) % n_most).argmax())

    def set_rows(self, tokens: Sequence[int] | NDArray[np.int64], position: int) -> None:
        """One row for each sequence 0, 1, …, all at one position and all wanted."""
        n = len(tokens)
        self._token[:n] = tokens
        self._pos[:n] = position
        self._seq[:n] = np.arange(n)
        self._want[:n] = 1
        self._batch.n_tokens = n

    def decode(self) -> None:
        """Compute the rows that are set, to the point where their logits can be read."""
        if code := self._api.llama_decode(self._context, self._batch):
            raise OSError(f"llama_decode returned {code}")

    def logits(self, row: int) -> NDArray[np.float32]:
        """A view [n_vocab] of one wanted row's logits, valid until the next decode."""
        pointer = self._api.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))

    def greedy(self, tokens: Sequence[int], n_tokens: int, stop: int | None = None) -> list[int]:
        """The likeliest continuation of a prompt in sequence 0, without the stop token."""
        self.clear()
        out: list[int] = []
        token = self.prefill(0, tokens)
        while token != stop and len(out) < n_tokens:
            out.append(token)
            self.set_rows([token], len(tokens) + len(out) - 1)
            self.decode()
            token = int(self.logits(0).argmax())
        return out

    def _decode(self, n_rows: int) -> None:
        self._batch.n_tokens = n_rows
        self.decode()
