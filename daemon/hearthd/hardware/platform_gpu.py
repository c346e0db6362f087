"""GPUs that are part of a chip and on no bus: Tegra, Apple, Arm and others."""

from __future__ import annotations

from hearthd.hardware.device import Device, GpuFacts, Reading
from hearthd.hardware.memory import HostMemory, unified_free_bytes
from hearthd.hardware.pci import driver_label, scaled
from hearthd.hardware.sources import is_tegra
from hearthd.hardware.tree import Tree

_DRM = "sys/class/drm"
_DRIVERS = {
    "asahi": ("apple", "Apple GPU"),
    "msm": ("qualcomm", "Qualcomm Adreno"),
    "msm_dpu": ("qualcomm", "Qualcomm Adreno"),
    "panthor": ("arm", "Arm Mali"),
    "panfrost": ("arm", "Arm Mali"),
    "v3d": ("broadcom", "Broadcom VideoCore"),
}
_TEGRA_LOADS = ("sys/devices/platform/gpu.0/load", "sys/devices/gpu.0/load")
_TEGRA_DRIVERS = ("nvgpu", "nvidia")


def platform_devices(tree: Tree, host: HostMemory) -> list[Device]:
    """Those with a driver that can compute; they all use the host's memory."""
    found = [_device(tree, name, host) for name in tree.names(_DRM) if _is_render_node(name)]
    tegra = _tegra(tree, host)
    return [device for device in (*found, tegra) if device is not None]


def _is_render_node(name: str) -> bool:
    return name.startswith("renderD")


def _device(tree: Tree, name: str, host: HostMemory) -> Device | None:
    driver = tree.target(f"{_DRM}/{name}/device/driver")
    if driver not in _DRIVERS:
        return None
    vendor, description = _DRIVERS[driver]
    place = tree.target(f"{_DRM}/{name}/device") or name
    return _unified(tree, f"platform:{place}", vendor, description, driver, host, Reading())


def _tegra(tree: Tree, host: HostMemory) -> Device | None:
    """NVIDIA's Jetson where NVML does not know its GPU."""
    if not is_tegra(tree):
        return None
    driver = next((d for d in _TEGRA_DRIVERS if tree.exists(f"sys/module/{d}")), None)
    if driver is None:
        return None
    load = next((n for path in _TEGRA_LOADS if (n := tree.number(path)) is not None), None)
    description = tree.text("proc/device-tree/model") or "NVIDIA Tegra"
    reading = Reading(utilization=scaled(load, 1000))
    return _unified(tree, "platform:tegra", "nvidia", description, driver, host, reading)


def _unified(
    tree: Tree,
    identity: str,
    vendor: str,
    description: str,
    driver: str,
    host: HostMemory,
    reading: Reading,
) -> Device:
    return Device(
        name="",
        identity=identity,
        kind="gpu",
        vendor=vendor,
        description=description,
        driver=driver_label(tree, driver),
        total_bytes=host.total_bytes,
        unified=True,
        gpu=GpuFacts(),
        reading=Reading(free_bytes=unified_free_bytes(None, host), utilization=reading.utilization),
    )
