"""Session: an ONNX Runtime session over a graph and its weights; the only file that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as native

from hearth_backends.errors import BackendError, OutOfMemory
from hearth_backends.onnx.graph import Graph
from hearth_backends.onnx.packing import Packed

VERSION: str = ort.__version__
CPU = "CPUExecutionProvider"

Array: TypeAlias = NDArray[Any]

RUN_ERRORS = (
    native.Fail,
    native.InvalidArgument,
    native.RuntimeException,
    native.NotImplemented,
    native.EPFail,
)
"""What a step may raise and be repeated after."""
LOAD_ERRORS = (
    *RUN_ERRORS,
    native.NoSuchFile,
    native.NoModel,
    native.EngineError,
    native.InvalidProtobuf,
    native.ModelLoaded,
    native.InvalidGraph,
)

_FOLDER = "session.model_external_initializers_file_folder_path"
_FATAL = 4
"""Log level: what goes wrong is raised, and would only be said twice."""


def providers() -> list[str]:
    """Execution providers of the installed package."""
    return list(ort.get_available_providers())


def start(provider: str) -> list[str]:
    """The providers of a session of one node that was opened with this one; raises as ONNX Runtime does."""
    graph = Graph(np.dtype(np.float32))
    x = graph.input("x", np.float32, (1,))
    graph.named_node("Identity", [x], ["y"])
    graph.output("y", np.float32, (1,))
    model = graph.serialized({})
    opened = ort.InferenceSession(model, _options(1), providers=[provider], enable_fallback=0)
    return list(opened.get_providers())


class Session:
    """A session and the arrays its weights lie in; close frees both."""

    def __init__(self, graph: Graph, weights: Packed, provider: str, threads: int) -> None:
        """Raises OutOfMemory and BackendError."""
        options = _options(threads)
        if weights.folder is not None:
            options.add_session_config_entry(_FOLDER, str(weights.folder))
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.arrays.values()]
        options.add_external_initializers(list(weights.arrays), values)
        # The session reads weights in place where it does not pack them anew.
        self._kept: tuple[Any, ...] = (weights, values)
        self._weights: Packed | None = weights
        try:
            self._open(graph.serialized(weights.places), options, provider)
        except BaseException:
            weights.close()
            raise

    def _open(self, model: bytes | str, options: Any, provider: str) -> None:
        try:
            self._session = ort.InferenceSession(model, options, providers=[provider])
        except MemoryError as error:
            raise OutOfMemory("ONNX Runtime found no memory for the weights") from error
        except LOAD_ERRORS as error:
            raise _translated(error) from error
        self.inputs = frozenset(value.name for value in self._session.get_inputs())

    def binding(self) -> Any:
        """A set of inputs and outputs to be bound."""
        return self._session.io_binding()

    def run(self, binding: Any) -> None:
        """Compute; raises RUN_ERRORS and MemoryError."""
        self._session.run_with_iobinding(binding)

    def compute(self, feeds: Mapping[str, Array], output: str) -> Array:
        """One output, in memory of its own; raises RUN_ERRORS and MemoryError."""
        found: Array = self._session.run([output], dict(feeds))[0]
        return found

    def compute_all(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Several of them, likewise."""
        found: list[Array] = self._session.run(list(outputs), dict(feeds))
        return found

    def close(self) -> None:
        """Free it; idempotent."""
        self._session = None
        self._kept = ()
        if self._weights is not None:
            self._weights.close()


class FileSession(Session):
    """A session over an ONNX file made elsewhere."""

    def __init__(self, path: Path, provider: str, threads: int) -> None:
        """Raises OutOfMemory and BackendError."""
        self._kept = ()
        self._weights = None
        self._open(str(path), _options(threads), provider)


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    return options


def bind_input(binding: Any, name: str, array: Array) -> None:
    """Bind an array by its address: it must outlive the binding."""
    binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def bind_output(binding: Any, name: str, array: Array) -> None:
    """Bind an array by its address: it must outlive the binding."""
    binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _translated(error: Exception) -> BackendError:
    words = str(error)
    if "bad_alloc" in words or "Failed to allocate memory" in words:
        return OutOfMemory(f"ONNX Runtime found no memory for the weights: {words}")
    return BackendError(f"ONNX Runtime does not take the graph: {words}")
