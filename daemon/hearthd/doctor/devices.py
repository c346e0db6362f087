"""Check: the daemon's user may open the device nodes of GPUs and NPUs, and their drivers are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hearthd.doctor.account import group_name
from hearthd.doctor.finding import Finding
from hearthd.doctor.patient import Patient

NAME = "devices"
_DISPLAY: Final = "0x03"  # PCI class of GPUs
_NVIDIA, _AMD = "0x10de", "0x1002"


def check(patient: Patient) -> Iterator[Finding]:
    """One finding for each node that is closed, and for each driver that is missing."""
    nodes = _nodes(patient)
    found = [*_drivers(patient), *(finding for node in nodes for finding in _closed(patient, node))]
    yield from found
    if not found and nodes:
        yield Finding(NAME, "ok", f"{patient.account.name} may open {', '.join(nodes)}")
    elif not found:
        yield Finding(NAME, "ok", "no GPU or NPU here: models run on the processor")


def _nodes(patient: Patient) -> list[str]:
    names = patient.tree.names
    nodes = [f"dev/{name}" for name in names("dev") if name.startswith("nvidia") or name == "kfd"]
    nodes += [f"dev/dri/{name}" for name in names("dev/dri") if name.startswith("renderD")]
    nodes += [f"dev/accel/{name}" for name in names("dev/accel") if name.startswith("accel")]
    return [f"/{node}" for node in nodes if not patient.tree.path(node).is_dir()]


def _closed(patient: Patient, node: str) -> Iterator[Finding]:
    account = patient.account
    found = patient.tree.path(node[1:]).stat()
    if account.may(found, "rw"):
        return
    group = group_name(patient.tree, found.st_gid)
    if found.st_gid == 0 or found.st_mode & 0o060 != 0o060:
        yield Finding(
            NAME, "failed", f"{account.name} may not open {node}, nor may any group but root's",
            patient.command("chmod", "a+rw", node),
        )  # fmt: skip
        return
    added = patient.command("usermod", "-aG", group, account.name)
    yield Finding(
        NAME, "failed", f"{account.name} may not open {node}: it is not in the group {group}",
        f"{added} && {patient.restart()}" if patient.is_service else f"{added}  # and log in anew",
    )  # fmt: skip


def _drivers(patient: Patient) -> Iterator[Finding]:
    tree = patient.tree
    vendors = {
        tree.text(f"sys/bus/pci/devices/{name}/vendor")
        for name in tree.names("sys/bus/pci/devices")
        if (tree.text(f"sys/bus/pci/devices/{name}/class") or "").startswith(_DISPLAY)
    }
    if _NVIDIA in vendors and not tree.exists("dev/nvidiactl"):
        if tree.exists("sys/module/nvidia"):
            yield Finding(
                NAME, "failed", "NVIDIA's driver is loaded, but there is no /dev/nvidiactl",
                patient.command("nvidia-modprobe", "-u", "-c=0"),
            )  # fmt: skip
        else:
            yield Finding(
                NAME, "failed", "there is an NVIDIA GPU, and its driver is not loaded",
                patient.command("modprobe", "nvidia"),
            )  # fmt: skip
    if _AMD in vendors and not tree.exists("sys/module/amdgpu"):
        yield Finding(
            NAME, "failed", "there is an AMD GPU, and its driver is not loaded",
            patient.command("modprobe", "amdgpu"),
        )  # fmt: skip
