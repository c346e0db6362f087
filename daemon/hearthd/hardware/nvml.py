"""Nvml: NVIDIA's management library through ctypes; only the calls that discovery needs.

Its calls can block for ever when a driver hangs, so only a child process uses it. A function that an
older library lacks, or that a GPU does not support, gives None. (The package nvidia-ml-py loads the
library by its name alone; here an operator, or a test, may say which.)
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char, c_int, c_uint, c_ulonglong, c_void_p
from typing import Any, NamedTuple, TypeAlias

LIBRARY = "libnvidia-ml.so.1"

_OK = 0
_INSUFFICIENT_SIZE = 7
_TEXT_BYTES = 96
_NVLINKS = 18
_MEMORY_VERSION_2 = 2

_ERRORS = {
    2: "invalid argument",
    3: "not supported",
    4: "no permission: may this user open /dev/nvidiactl?",
    6: "not found",
    9: "the driver is not loaded: is the module nvidia there (modprobe nvidia)?",
    12: "the library is not there",
    15: "the GPU is lost: it has fallen off its bus, and needs a restart of the machine",
    18: "the library and the loaded driver are of different versions: restart the machine, or load "
    "the module nvidia anew",
    999: "unknown error",
}

Handle: TypeAlias = c_void_p


class NvmlError(Exception):
    """A call failed; the message says what helps."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{_ERRORS.get(code, f'error {code}')} (NVML {code} of {call})")
        self.code = code


class Memory(NamedTuple):
    """Bytes of a GPU; what the driver keeps for itself counts as used."""

    total: int
    free: int


class _Memory1(ctypes.Structure):
    _fields_ = [("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong)]


class _Memory2(ctypes.Structure):
    _fields_ = [
        ("version", c_uint),
        ("total", c_ulonglong),
        ("reserved", c_ulonglong),
        ("free", c_ulonglong),
        ("used", c_ulonglong),
    ]


class _PciInfo(ctypes.Structure):
    _fields_ = [
        ("legacy_bus_id", c_char * 16),
        ("domain", c_uint),
        ("bus", c_uint),
        ("device", c_uint),
        ("device_id", c_uint),
        ("subsystem_id", c_uint),
        ("bus_id", c_char * 32),
    ]


class Nvml:
    """An initialised library; every method may block."""

    def __init__(self, library: str = LIBRARY) -> None:
        """Raises OSError where there is no such library, NvmlError where it does not start."""
        self._library = ctypes.CDLL(library)
        self._must("nvmlInit_v2")

    def driver_version(self) -> str | None:
        """Of the loaded driver."""
        return self._text("nvmlSystemGetDriverVersion")

    def count(self) -> int:
        """GPUs, lost ones included; raises NvmlError."""
        number = c_uint()
        self._must("nvmlDeviceGetCount_v2", byref(number))
        return number.value

    def handle(self, index: int) -> Handle:
        """The GPU at a place of the driver's order, which is that of PCI addresses; raises NvmlError."""
        handle = c_void_p()
        self._must("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(handle))
        return handle

    def name(self, handle: Handle) -> str | None:
        """What the maker calls it."""
        return self._text("nvmlDeviceGetName", handle)

    def uuid(self, handle: Handle) -> str:
        """ "GPU-…" or "MIG-…"; raises NvmlError, also for a GPU that is lost."""
        text = ctypes.create_string_buffer(_TEXT_BYTES)
        self._must("nvmlDeviceGetUUID", handle, text, c_uint(_TEXT_BYTES))
        return text.value.decode(errors="replace")

    def bus_id(self, handle: Handle) -> str | None:
        """ "00000000:03:00.0"."""
        info = _PciInfo()
        if not self._may("nvmlDeviceGetPciInfo_v3", handle, byref(info)):
            return None
        return bytes(info.bus_id).decode(errors="replace") or None

    def memory(self, handle: Handle) -> Memory | None:
        """None where it has none of its own."""
        new = _Memory2(version=ctypes.sizeof(_Memory2) | _MEMORY_VERSION_2 << 24)
        if self._may("nvmlDeviceGetMemoryInfo_v2", handle, byref(new)):
            return Memory(new.total, new.free)
        old = _Memory1()
        if self._may("nvmlDeviceGetMemoryInfo", handle, byref(old)):
            return Memory(old.total, old.free)
        return None

    def capability(self, handle: Handle) -> str | None:
        """ "8.9"."""
        pair = c_int(), c_int()
        found = self._may("nvmlDeviceGetCudaComputeCapability", handle, *map(byref, pair))
        return f"{pair[0].value}.{pair[1].value}" if found else None

    def utilization(self, handle: Handle) -> float | None:
        """Share of the last moment in which it computed."""
        rates = (c_uint * 2)()
        return rates[0] / 100 if self._may("nvmlDeviceGetUtilizationRates", handle, rates) else None

    def temperature_celsius(self, handle: Handle) -> float | None:
        """Of the chip."""
        number = self._unsigned("nvmlDeviceGetTemperature", handle, c_uint(0))
        return None if number is None else float(number)

    def power_watts(self, handle: Handle) -> float | None:
        """What it draws."""
        number = self._unsigned("nvmlDeviceGetPowerUsage", handle)
        return None if number is None else number / 1000

    def power_limit_watts(self, handle: Handle) -> float | None:
        """What it may draw."""
        number = self._unsigned("nvmlDeviceGetEnforcedPowerLimit", handle)
        return None if number is None else number / 1000

    def ecc(self, handle: Handle) -> bool | None:
        """Whether its memory corrects errors."""
        modes = c_uint(), c_uint()
        found = self._may("nvmlDeviceGetEccMode", handle, *map(byref, modes))
        return bool(modes[0].value) if found else None

    def uncorrected_errors(self, handle: Handle) -> int | None:
        """Errors in memory since the driver was loaded that could not be corrected."""
        number = c_ulonglong()
        found = self._may(
            "nvmlDeviceGetTotalEccErrors", handle, c_uint(1), c_uint(0), byref(number)
        )
        return number.value if found else None

    def is_partitioned(self, handle: Handle) -> bool:
        """Whether it is cut into instances (MIG)."""
        modes = c_uint(), c_uint()
        found = self._may("nvmlDeviceGetMigMode", handle, *map(byref, modes))
        return found and modes[0].value == 1

    def partitions(self, handle: Handle) -> list[Handle]:
        """Its instances."""
        most = self._unsigned("nvmlDeviceGetMaxMigDeviceCount", handle) or 0
        found = []
        for i in range(most):
            part = c_void_p()
            if self._may("nvmlDeviceGetMigDeviceHandleByIndex", handle, c_uint(i), byref(part)):
                found.append(part)
        return found

    def nvlinks(self, handle: Handle) -> dict[str, int]:
        """Bus id of the other end to the number of active links to it."""
        links: dict[str, int] = {}
        for i in range(_NVLINKS):
            active, info = c_uint(), _PciInfo()
            if not self._may("nvmlDeviceGetNvLinkState", handle, c_uint(i), byref(active)):
                break
            if active.value and self._may(
                "nvmlDeviceGetNvLinkRemotePciInfo_v2", handle, c_uint(i), byref(info)
            ):
                bus_id = bytes(info.bus_id).decode(errors="replace")
                links[bus_id] = links.get(bus_id, 0) + 1
        return links

    def _must(self, call: str, *arguments: Any) -> None:
        function = getattr(self._library, call, None)
        code = 13 if function is None else function(*arguments)
        if code != _OK:
            raise NvmlError(call, code)

    def _may(self, call: str, *arguments: Any) -> bool:
        function = getattr(self._library, call, None)
        return function is not None and function(*arguments) == _OK

    def _unsigned(self, call: str, *arguments: Any) -> int | None:
        number = c_uint()
        return number.value if self._may(call, *arguments, byref(number)) else None

    def _text(self, call: str, *arguments: Any) -> str | None:
        for size in (_TEXT_BYTES, 4 * _TEXT_BYTES):
            text = ctypes.create_string_buffer(size)
            function = getattr(self._library, call, None)
            code = None if function is None else function(*arguments, text, c_uint(size))
            if code == _OK:
                return text.value.decode(errors="replace")
            if code != _INSUFFICIENT_SIZE:
                break
        return None
