"""AMD GPUs, as the kernel's KFD topology and amdgpu's files show them."""

from __future__ import annotations

from hearthd.hardware.device import Device, GpuFacts, Reading
from hearthd.hardware.memory import HostMemory
from hearthd.hardware.pci import PciFunction, driver_label, scaled, sensor_folder
from hearthd.hardware.tree import Tree

_KFD = "sys/class/kfd/kfd/topology/nodes"
_INTEGRATED_BYTES = 4 << 30
"""A card with less memory of its own, beside a host processor in its KFD node, is part of it."""


def amd_device(tree: Tree, function: PciFunction, host: HostMemory) -> Device:
    """One GPU of the driver amdgpu; another driver's is of no use, and says so."""
    path = function.path
    node = _kfd_node(tree, function.address)
    vram = tree.number(f"{path}/mem_info_vram_total")
    unified = _is_integrated(tree, path, vram)
    total, free = vram, _left(tree, path, "vram")
    if unified:
        shared = _left(tree, path, "gtt")
        total = (vram or 0) + (tree.number(f"{path}/mem_info_gtt_total") or 0)
        free = (free or 0) + min(shared or 0, host.available_bytes)
    return Device(
        name="",
        identity=_identity(tree, function),
        kind="gpu",
        vendor="amd",
        description=_description(tree, function, node),
        state="ready" if node else "failed",
        problem=None if node else _problem(function),
        driver=driver_label(tree, function.driver),
        pci=function.address,
        numa_node=function.numa_node,
        total_bytes=total,
        unified=unified,
        gpu=GpuFacts(
            capability=_architecture(node.get("gfx_target_version")) if node else None,
            link=function.link,
            uncorrected_errors=_uncorrected(tree, path),
        ),
        reading=_reading(tree, path, free),
    )


def _identity(tree: Tree, function: PciFunction) -> str:
    unique = tree.text(f"{function.path}/unique_id")
    return f"amd:{unique}" if unique else f"pci:{function.address}"


def _problem(function: PciFunction) -> str:
    if function.driver == "amdgpu":
        return "amdgpu offers no compute node for it: is /dev/kfd there, and the card supported?"
    return f"its driver is {function.driver or 'not loaded'}; amdgpu is needed"


def _kfd_node(tree: Tree, address: str) -> dict[str, str]:
    """What KFD says of the GPU at an address; empty where it does not know it."""
    for number in tree.names(_KFD):
        lines = tree.lines(f"{_KFD}/{number}/properties")
        properties = dict(line.split(None, 1) for line in lines if " " in line)
        simds, place = properties.get("simd_count", "0"), properties.get("location_id", "")
        if simds != "0" and place.isdecimal():
            bus = int(place)
            domain = int(properties.get("domain", "0"))
            at = f"{domain:04x}:{bus >> 8 & 0xFF:02x}:{bus >> 3 & 0x1F:02x}.{bus & 7}"
            if at == address:
                return {**properties, "name": tree.text(f"{_KFD}/{number}/name") or ""}
    return {}


def _architecture(version: str | None) -> str | None:
    """KFD's 110000 is gfx1100, 90010 is gfx90a."""
    if version is None or not version.isdecimal() or version == "0":
        return None
    number = int(version)
    return f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}"


def _is_integrated(tree: Tree, path: str, vram: int | None) -> bool:
    """Whether it shares the host's memory: it has little of its own, and may use much of the host's."""
    gtt = tree.number(f"{path}/mem_info_gtt_total")
    return vram is not None and gtt is not None and vram < _INTEGRATED_BYTES and gtt > vram


def _left(tree: Tree, path: str, kind: str) -> int | None:
    total, used = (tree.number(f"{path}/mem_info_{kind}_{word}") for word in ("total", "used"))
    return None if total is None or used is None else max(0, total - used)


def _description(tree: Tree, function: PciFunction, node: dict[str, str]) -> str:
    product = tree.text(f"{function.path}/product_name")
    known = node.get("name", "")
    if product:
        return product
    return f"AMD {known}" if known and known != "ip discovery" else f"AMD GPU {function.device:04x}"


def _uncorrected(tree: Tree, path: str) -> int | None:
    """Errors in memory that could not be corrected, where the card counts them: "ue: 0"."""
    for line in tree.lines(f"{path}/ras/umc_err_count"):
        key, _, value = line.partition(":")
        if key.strip() == "ue" and value.strip().isdecimal():
            return int(value)
    return None


def _reading(tree: Tree, path: str, free: int | None) -> Reading:
    sensors = sensor_folder(tree, path)
    busy = scaled(tree.number(f"{path}/gpu_busy_percent"), 100)
    if sensors is None:
        return Reading(free_bytes=free, utilization=busy)
    watts = tree.number(f"{sensors}/power1_average")
    if watts is None:
        watts = tree.number(f"{sensors}/power1_input")
    return Reading(
        free_bytes=free,
        utilization=busy,
        temperature_celsius=scaled(tree.number(f"{sensors}/temp1_input"), 1000),
        power_watts=scaled(watts, 1e6),
        power_limit_watts=scaled(tree.number(f"{sensors}/power1_cap"), 1e6),
    )
