"""Adapters: LoRA adapters of a context by number, one of which applies to a batch at a time."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from hearth_backends.base import StageSpec
from hearth_backends.errors import ModelFileError, OutOfMemory, StepError
from hearth_backends.gguf.adapter_slice import sliced_adapter
from hearth_backends.gguf.context import Context
from hearth_backends.gguf.llama import NO_REASON, collected_errors, is_allocation_failure, lib


class Adapters:
    """Those that were loaded live as long as the context's model."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pointers: dict[int, Any] = {}  # None: it has nothing of these layers
        self._in_use = 0

    def load(self, number: int, path: Path, part: StageSpec | None = None) -> None:
        """Load an adapter, or what it has of the layers of a stage.

        Raises ModelFileError or OutOfMemory that names the file and ends in llama.cpp's words.
        """
        if part is None:
            self._load(number, path, str(path))
            return
        with sliced_adapter(path, part) as slice_path:
            if slice_path is None:
                self._pointers[number] = None
            else:
                self._load(number, path, slice_path)

    def _load(self, number: int, path: Path, at: str) -> None:
        with collected_errors() as errors:
            pointer = lib.llama_adapter_lora_init(self._context.model.pointer, at.encode())
        if not pointer:
            kind = OutOfMemory if is_allocation_failure(errors) else ModelFileError
            raise kind(f"{path}: {errors[0] if errors else NO_REASON}")
        self._pointers[number] = pointer

    def use(self, number: int) -> None:
        """Have the next batches computed with an adapter, or with none (0).

        A change costs: llama.cpp plans its memory anew before the next batch.
        Raises StepError for a number that was not loaded.
        """
        if number == self._in_use:
            return
        if number and number not in self._pointers:
            raise StepError(f"there is no adapter {number}")
        pointer = self._pointers.get(number)
        if pointer is None:
            lib.llama_set_adapters_lora(self._context.pointer, None, 0, None)
        else:
            chosen = (lib.llama_adapter_lora_p_ctypes * 1)(pointer)
            whole = (ctypes.c_float * 1)(1.0)
            lib.llama_set_adapters_lora(self._context.pointer, chosen, 1, whole)
        self._in_use = number
