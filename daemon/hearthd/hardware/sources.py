"""Sources: whom to ask for devices on this machine, told from folders, which never hang."""

from __future__ import annotations

from typing import Literal, TypeAlias

from hearthd.hardware.pci import NVIDIA, read_functions
from hearthd.hardware.tree import Tree

Source: TypeAlias = Literal["nvml", "sysfs"]


def needed_sources(tree: Tree, nvml_library: str | None) -> list[Source]:
    """Those that could have something to say; `nvml_library` where the operator names one. Blocks."""
    functions = read_functions(tree)
    sources: list[Source] = []
    if (
        nvml_library is not None
        or tree.exists("dev/nvidiactl")
        or tree.exists("proc/driver/nvidia/version")
        or any(function.vendor == NVIDIA for function in functions)
    ):
        sources.append("nvml")
    if functions or is_tegra(tree) or any(tree.names(f"sys/class/{c}") for c in ("drm", "accel")):
        sources.append("sysfs")
    return sources


def is_tegra(tree: Tree) -> bool:
    """Whether this is one of NVIDIA's chips that have processors and GPU in one."""
    return "nvidia,tegra" in (tree.text("proc/device-tree/compatible") or "")
