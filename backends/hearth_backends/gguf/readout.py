"""Reading hidden states out of llama.cpp, before the final norm that its own interface applies."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from hearth_backends.base import F32, Hidden
from hearth_backends.errors import BackendError
from hearth_backends.gguf.context import Context
from hearth_backends.gguf.llama import read_tensor, tensor_bytes, tensor_name


class HiddenReadout(Protocol):
    """One way to the hidden states of all rows of a step."""

    @property
    def flag(self) -> bool:
        """What every row's output mark must be."""

    def begin(self) -> None:
        """A step is about to be computed."""

    def rows(self, context: Context, n_rows: int) -> Hidden:
        """The hidden states of the step [n_rows, d_model], a copy; raises BackendError if rows are missing."""


class LayerInputReadout:
    """Reads what entered the sentinel layer; costs that layer's attention, and no call into Python."""

    flag = False  # no row needs to come out of the sentinel

    def __init__(self, sentinel: int) -> None:
        self._sentinel = sentinel

    def begin(self) -> None:
        """Nothing to prepare."""

    def rows(self, context: Context, n_rows: int) -> Hidden:
        return context.layer_input(self._sentinel, n_rows).copy()


class NodeReadout:
    """Copies the last layer's output when the graph reaches it, and stops there.

    llama.cpp calls `on_node` for every node of the graph: some tenths of a millisecond a step, and it
    waits for the interpreter's lock. Rows arrive in the order of micro-batches, so n_ubatch = n_batch.
    """

    flag = True  # unmarked rows are dropped before the last layer ends

    def __init__(self, n_layers: int, n_rows: int, d_model: int) -> None:
        self._name = f"l_out-{n_layers - 1}".encode()
        self._buffer: F32 = np.empty((n_rows, d_model), np.float32)
        self._n_bytes = 0

    def begin(self) -> None:
        self._n_bytes = 0

    def on_node(self, tensor: int, ask: bool, _user_data: object) -> bool:
        """Asked: whether the node is wanted. Told: whether to go on after it."""
        if ask:
            return bool(tensor_name(tensor) == self._name)
        n_bytes = int(tensor_bytes(tensor))
        if self._n_bytes + n_bytes <= self._buffer.nbytes:
            read_tensor(tensor, self._buffer.ctypes.data + self._n_bytes, 0, n_bytes)
        self._n_bytes += n_bytes
        return False

    def rows(self, context: Context, n_rows: int) -> Hidden:
        row_bytes = self._buffer.itemsize * self._buffer.shape[1]
        if self._n_bytes != n_rows * row_bytes:
            raise BackendError(
                f"{self._n_bytes} bytes of hidden states came for {n_rows} rows of {row_bytes}"
            )
        return self._buffer[:n_rows].copy()
