"""Providers: ONNX Runtime's ways to devices, which of them are here, and which of these can be initialised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from hearth_backends.base import DeviceInfo, Support


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider as a device."""

    provider: str  # as ONNX Runtime calls it
    prefix: str  # of the device's name
    kind: Literal["cpu", "gpu", "npu"]
    vendor: str | None  # where it can be one only
    compiles: bool = False  # the whole graph, anew for each shape: it is given few
    tried: str = ""  # with what it was tried; empty: it was not

    @property
    def device(self) -> str:
        """Name of the device."""
        return f"{self.prefix}:0"


CPU = "CPUExecutionProvider"
PROVIDERS = (
    Provider("CUDAExecutionProvider", "cuda", "gpu", "nvidia"),
    Provider("NvTensorRTRTXExecutionProvider", "tensorrt-rtx", "gpu", "nvidia", compiles=True),
    Provider("TensorrtExecutionProvider", "tensorrt", "gpu", "nvidia", compiles=True),
    Provider("ROCMExecutionProvider", "rocm", "gpu", "amd"),
    Provider("MIGraphXExecutionProvider", "migraphx", "gpu", "amd", compiles=True),
    Provider("DmlExecutionProvider", "dml", "gpu", None),
    Provider("WebGpuExecutionProvider", "webgpu", "gpu", None),
    Provider("OpenVINOExecutionProvider", "openvino", "npu", "intel", compiles=True),
    Provider("QNNExecutionProvider", "qnn", "npu", "qualcomm", compiles=True),
    Provider("VitisAIExecutionProvider", "vitisai", "npu", "amd", compiles=True),
    Provider("CoreMLExecutionProvider", "coreml", "npu", "apple", compiles=True),
)
"""All that are not the processor's own."""

Start = Callable[[str], Sequence[str]]
"""Opens a session with a provider; those that it has then. Raises what ONNX Runtime raises."""


class Providers:
    """Those of the installed package; each is started when it is first asked for, and only once."""

    def __init__(self, listed: Callable[[], Sequence[str]], start: Start) -> None:
        self._listed = listed
        self._start = start
        self._failures: dict[str, str | None] = {}

    def here(self) -> list[Provider]:
        """Those that the installed package has, besides the processor's own."""
        names = set(self._listed())
        return [provider for provider in PROVIDERS if provider.provider in names]

    def of(self, device: str) -> Provider | None:
        """The provider of a device; None for the processor, and for devices that nobody has here."""
        return next((each for each in self.here() if each.device == device), None)

    def devices(self) -> list[DeviceInfo]:
        """A device for each; one that is known not to start says why."""
        return [_described(each, self._failures.get(each.provider)) for each in self.here()]

    def support(self, device: DeviceInfo) -> Support:
        """Whether the device's provider can be initialised; no with the reason."""
        if device.kind == "cpu":
            return Support(True)
        found = self.of(device.name)
        if found is None:
            return Support(
                False, f"the installed package of ONNX Runtime has no provider for {device.name}"
            )
        failure = self._failure(found.provider)
        if failure is None:
            return Support(True)
        return Support(False, f"{found.provider} does not start: {failure}")

    def _failure(self, provider: str) -> str | None:
        if provider not in self._failures:
            self._failures[provider] = self._tried(provider)
        return self._failures[provider]

    def _tried(self, provider: str) -> str | None:
        """Why it does not start; None where it does."""
        try:
            found = self._start(provider)
        except Exception as error:  # a driver's library raises what it likes
            return f"{type(error).__name__}: {error}"
        if provider in found:
            return None
        return f"ONNX Runtime went on without it ({', '.join(found)}): a library or a driver that it needs is missing"


def _described(provider: Provider, failure: str | None) -> DeviceInfo:
    state = f"tried with {provider.tried}" if provider.tried else "untested"
    if failure is not None:
        state = f"does not start: {failure}"
    return DeviceInfo(
        name=provider.device,
        kind=provider.kind,
        description=f"{provider.provider} ({state})",
        total_bytes=None,
        free_bytes=None,
        vendor=provider.vendor,
    )
