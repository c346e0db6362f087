"""llama.cpp: the only module that imports llama_cpp, checks it, and turns its log into ours.

The binding is generated from C headers whose structs change between releases: one that does not fit
reads garbage without a word. So the version is pinned and the layout checked when this is imported.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as _binding

from hearth_backends.base import Progress
from hearth_backends.errors import ModelFileError, OutOfMemory, Unsupported

lib: Any = _binding
"""The binding's functions and constants, for the modules of this backend."""

VERSION = "0.3.36"
MOST_SEQUENCES = 256  # llama_max_parallel_sequences()
KV_TYPES = {"f32": lib.GGML_TYPE_F32, "f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}

_SIZES = {"llama_model_params": 80, "llama_context_params": 160, "llama_batch": 56}
_MODEL_DEFAULTS = {
    "n_gpu_layers": -1,
    "load_mode": -1,
    "vocab_only": False,
    "use_extra_bufts": True,
}
_CONTEXT_DEFAULTS = {
    "n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "flash_attn_type": -1,
    "type_k": 1, "type_v": 1, "no_perf": True, "swa_full": True, "kv_unified": False, "n_samplers": 0,
}  # fmt: skip

log = logging.getLogger(__name__)


def _check_layout() -> None:
    """Raise Unsupported unless the binding is the one this module was written against."""
    problems = []
    if llama_cpp.__version__ != VERSION:
        problems.append(f"version {llama_cpp.__version__}")
    for name, size in _SIZES.items():
        found = ctypes.sizeof(getattr(lib, name))
        if found != size:
            problems.append(f"{name} of {found} bytes")
    for params, defaults in (
        (lib.llama_model_default_params(), _MODEL_DEFAULTS),
        (lib.llama_context_default_params(), _CONTEXT_DEFAULTS),
    ):
        for field, value in defaults.items():
            if getattr(params, field) != value:
                problems.append(f"a default {field} of {getattr(params, field)}")
    if problems:
        raise Unsupported(
            f"llama-cpp-python {VERSION} is needed; the one installed has {', '.join(problems)}"
        )


# --- log ---------------------------------------------------------------------------------------

_LEVELS = {3: logging.WARNING, 4: logging.ERROR}
_CONTINUED = 5
_MISLEADING = (
    "n_ctx_seq",  # a context holds many sequences, so it is longer than any was in training
    "full-size SWA cache",  # as wanted
    "dummy tokens",  # of a slice, which has no vocabulary
    "cannot use buft",  # of adapters of repacked weights, which are never repacked
    "failed to find a memory slot",  # becomes a CapacityError
)
_here = threading.local()


def _on_log(level: int, text: bytes, _user_data: object) -> None:
    """Warnings and errors of llama.cpp, called from whatever thread has one."""
    if level == _CONTINUED or level not in _LEVELS:
        return
    line = text.decode("utf-8", "replace").strip()
    if level == 4 and hasattr(_here, "errors"):
        _here.errors.append(line)
    elif line and not any(word in line for word in _MISLEADING):
        log.log(_LEVELS[level], "llama.cpp: %s", line)


_log_callback = lib.llama_log_callback(_on_log)


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """The error lines that llama.cpp writes in this thread go into the list instead of the log."""
    _here.errors = []
    try:
        yield _here.errors
    finally:
        del _here.errors


# --- models ------------------------------------------------------------------------------------


class Model:
    """A loaded model, or its vocabulary alone; closed by `close`."""

    def __init__(
        self,
        path: str,
        *,
        name: str | None = None,
        vocab_only: bool = False,
        mmap: bool = True,
        numbers: Mapping[str, int] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Load a file; `numbers` take the place of metadata of the file.

        Raises ModelFileError or OutOfMemory that calls the file `name` and ends in llama.cpp's own
        words, and what `progress` raises.
        """
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        params.vocab_only = vocab_only
        params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if mmap else lib.LLAMA_LOAD_MODE_NONE
        overrides = _overrides(numbers or {})
        params.kv_overrides = overrides
        meter = _Meter(progress) if progress is not None else None
        if meter is not None:
            params.progress_callback = meter.callback
        with collected_errors() as errors:
            pointer = lib.llama_model_load_from_file(path.encode(), params)
        if meter is not None and meter.error is not None:
            if pointer:
                lib.llama_model_free(pointer)
            raise meter.error
        if not pointer:
            kind = OutOfMemory if is_allocation_failure(errors) else ModelFileError
            raise kind(f"{name or path}: {errors[0] if errors else NO_REASON}")
        self.pointer: Any = pointer
        self.vocab: Any = lib.llama_model_get_vocab(pointer)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self.vocab))
        self.n_layers = int(lib.llama_model_n_layer(pointer))
        self.d_model = int(lib.llama_model_n_embd(pointer))
        self.carries_state = bool(
            lib.llama_model_is_recurrent(pointer) or lib.llama_model_is_hybrid(pointer)
        )

    def close(self) -> None:
        """Free it; idempotent."""
        if self.pointer is not None:
            lib.llama_model_free(self.pointer)
            self.pointer = self.vocab = None


NO_REASON = "llama.cpp gives no reason"


def is_allocation_failure(errors: Sequence[str]) -> bool:
    """Whether what llama.cpp says is that there was no memory."""
    return any("failed to allocate" in line or "unable to allocate" in line for line in errors)


class _Meter:
    """Passes progress on; what that raises ends the load and is kept, as no exception crosses C."""

    def __init__(self, progress: Progress) -> None:
        self.error: BaseException | None = None
        self.callback: Any = lib.llama_progress_callback(self._on_progress)
        self._progress = progress

    def _on_progress(self, fraction: float, _user_data: object) -> bool:
        try:
            self._progress(min(1.0, max(0.0, fraction)))
        except BaseException as error:
            self.error = error
            return False
        return True


def _overrides(numbers: Mapping[str, int]) -> Any:
    """An array of overrides that ends in an empty one."""
    array = (lib.llama_model_kv_override * (len(numbers) + 1))()
    for override, (key, number) in zip(array, numbers.items(), strict=False):
        override.tag = lib.LLAMA_KV_OVERRIDE_TYPE_INT
        override.key = key.encode()
        override.value.val_i64 = number
    return array


# --- what the binding does not declare ---------------------------------------------------------


def _bind(library: Any, name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function


_LAYER_INPUT = "_Z30llama_{}_embeddings_layer_inpP13llama_contextj{}"  # C++, not in llama.h
set_layer_input = _bind(
    lib._lib, _LAYER_INPUT.format("set", "b"), None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool
)
get_layer_input = _bind(
    lib._lib, _LAYER_INPUT.format("get", ""), ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_uint32
)  # fmt: skip
_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
_base = ctypes.CDLL(str(Path(lib._lib._name).with_name(f"libggml-base{_SUFFIX}")))
tensor_name = _bind(_base, "ggml_get_name", ctypes.c_char_p, ctypes.c_void_p)
tensor_bytes = _bind(_base, "ggml_nbytes", ctypes.c_size_t, ctypes.c_void_p)
read_tensor = _bind(
    _base, "ggml_backend_tensor_get",
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t,
)  # fmt: skip


def _load_kernels(folder: Path) -> None:
    """Load the processor's kernels, where they are not linked in; raises Unsupported where none fit.

    Portable builds (GGML_BACKEND_DL) have them compiled for each generation of processors, and look for them
    beside the program, which is the interpreter.
    """
    registry: Any = ctypes.CDLL(str(folder / f"libggml{_SUFFIX}"))
    load = _bind(registry, "ggml_backend_load_all_from_path", None, ctypes.c_char_p)
    count = _bind(registry, "ggml_backend_reg_count", ctypes.c_size_t)
    if not count():
        load(str(folder).encode())
    if not count():
        raise Unsupported(f"no kernels of llama.cpp in {folder} fit this processor")


_check_layout()
lib.llama_log_set(_log_callback, ctypes.c_void_p(0))
_load_kernels(Path(lib._lib._name).parent)
lib.llama_backend_init()
