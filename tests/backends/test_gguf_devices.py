"""What llama.cpp says of devices, as the contract has it."""

from __future__ import annotations

import pytest

from hearth_backends.base import DeviceInfo
from hearth_backends.gguf.backend import GgufBackend
from hearth_backends.gguf.ggml_devices import Props, device_info


@pytest.mark.parametrize(
    ("name", "expected"), [(b"Vulkan0", "vulkan:0"), (b"CUDA11", "cuda:11"), (b"Metal", "metal:0")]
)
def test_a_gpu(name: bytes, expected: str) -> None:
    props = Props(name, b"Some GPU", 5, 7, 1, b"0000:C1:00.0")
    assert device_info(props) == DeviceInfo(
        name=expected,
        kind="gpu",
        description="Some GPU",
        total_bytes=7,
        free_bytes=5,
        id="0000:c1:00.0",
    )


@pytest.mark.parametrize("kind", [0, 3, 4])
def test_the_processor_and_its_helpers_are_none(kind: int) -> None:
    assert device_info(Props(b"CPU", b"", 1, 1, kind, None)) is None


def test_the_real_library_lists_the_processor_first() -> None:
    devices = GgufBackend().devices()
    assert devices[0].name == "cpu:0"
    assert all(device.kind == "gpu" for device in devices[1:])
