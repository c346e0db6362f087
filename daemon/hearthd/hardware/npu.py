"""NPUs, as the kernel's class of accelerators shows them."""

from __future__ import annotations

from hearthd.hardware.device import Device, GpuFacts, Reading
from hearthd.hardware.memory import HostMemory, unified_free_bytes
from hearthd.hardware.pci import driver_label
from hearthd.hardware.tree import Tree

_ACCEL = "sys/class/accel"
_NPUS = {
    "intel_vpu": ("intel", "Intel NPU", True),
    "amdxdna": ("amd", "AMD XDNA NPU", True),
    "rocket": ("rockchip", "Rockchip NPU", True),
    "ethosu": ("arm", "Arm Ethos NPU", True),
    "qaic": ("qualcomm", "Qualcomm Cloud AI", False),
    "habanalabs": ("intel", "Intel Gaudi", False),
}
"""Driver to vendor, description, and whether it uses the host's memory."""


def npu_devices(tree: Tree, host: HostMemory) -> list[Device]:
    """Every accelerator, those of drivers that nobody here knows included."""
    return [
        _device(tree, f"{_ACCEL}/{name}/device", name, host)
        for name in tree.names(_ACCEL)
        if name.startswith("accel")
    ]


def _device(tree: Tree, path: str, name: str, host: HostMemory) -> Device:
    driver = tree.target(f"{path}/driver")
    vendor, description, unified = _NPUS.get(driver or "", ("unknown", f"NPU {name}", True))
    address = tree.target(path) or name
    on_pci = address.count(":") == 2
    node = tree.number(f"{path}/numa_node")
    return Device(
        name="",
        identity=f"{'pci' if on_pci else 'accel'}:{address}",
        kind="npu",
        vendor=vendor,
        description=description,
        driver=driver_label(tree, driver),
        pci=address if on_pci else None,
        numa_node=None if node is None or node < 0 else node,
        total_bytes=host.total_bytes if unified else None,
        unified=unified,
        gpu=GpuFacts(),
        reading=Reading(free_bytes=unified_free_bytes(None, host) if unified else None),
    )
