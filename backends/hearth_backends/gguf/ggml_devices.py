"""The devices besides the processor that llama.cpp was built for and finds here: Vulkan, CUDA, ROCm and others."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from hearth_backends.base import DeviceInfo
from hearth_backends.gguf.llama import lib

_KINDS: dict[int, Literal["gpu"]] = {1: "gpu", 2: "gpu"}
"""ggml's types: 1 has memory of its own, 2 the host's; the others help the processor."""
_NAME = re.compile(r"([A-Za-z_]+?)_?(\d+)")
_SPARE_BYTES = 64  # for what a release may add at the end


class Props(ctypes.Structure):
    """ggml_backend_dev_props."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
        ("memory_free", ctypes.c_size_t),
        ("memory_total", ctypes.c_size_t),
        ("type", ctypes.c_int),
        ("device_id", ctypes.c_char_p),
        ("rest", ctypes.c_char * _SPARE_BYTES),
    ]


def other_devices() -> list[DeviceInfo]:
    """Those that could hold a model; starts their drivers."""
    return [info for props in _all_props() if (info := device_info(props)) is not None]


def device_info(props: Props) -> DeviceInfo | None:
    """One as the contract has it; None for the processor and what only helps it. Pure."""
    kind = _KINDS.get(props.type)
    if kind is None:
        return None
    found = _NAME.fullmatch(_text(props.name))
    name = f"{found[1].lower()}:{found[2]}" if found else f"{_text(props.name).lower()}:0"
    return DeviceInfo(
        name=name,
        kind=kind,
        description=_text(props.description),
        total_bytes=props.memory_total or None,
        free_bytes=props.memory_free or None,
        id=_text(props.device_id).lower() or None,
    )


def _all_props() -> Iterator[Props]:
    folder = Path(lib._lib._name).parent
    suffix = Path(lib._lib._name).suffix
    registry: Any = ctypes.CDLL(str(folder / f"libggml{suffix}"))
    base: Any = ctypes.CDLL(str(folder / f"libggml-base{suffix}"))
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base.ggml_backend_dev_get_props.argtypes = [ctypes.c_void_p, ctypes.POINTER(Props)]
    base.ggml_backend_dev_get_props.restype = None
    for i in range(registry.ggml_backend_dev_count()):
        props = Props()
        base.ggml_backend_dev_get_props(registry.ggml_backend_dev_get(i), ctypes.byref(props))
        yield props


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
