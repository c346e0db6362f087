"""NVIDIA GPUs and their partitions, as NVML tells of them."""

from __future__ import annotations

import re

import msgspec

from hearthd.hardware.device import Device, Findings, GpuFacts, Reading
from hearthd.hardware.memory import HostMemory, unified_free_bytes
from hearthd.hardware.nvml import Handle, Nvml, NvmlError
from hearthd.hardware.pci import PciFunction, short_address

_PROFILE = re.compile(r"\b\d+c?\.?\d*g\.\d+gb\b")


def nvidia_findings(nvml: Nvml, functions: dict[str, PciFunction], host: HostMemory) -> Findings:
    """Every GPU that answers, or its partitions; raises NvmlError where not even their number is known.

    `functions` by PCI address, for what the kernel knows better.
    """
    version = nvml.driver_version()
    driver = f"nvidia {version}" if version else "nvidia"
    devices: list[Device] = []
    problems: list[str] = []
    for index in range(nvml.count()):
        try:
            handle = nvml.handle(index)
            devices += _devices(nvml, handle, driver, functions, host)
        except NvmlError as error:
            problems.append(f"NVIDIA GPU {index}: {error}")
    return Findings(devices, problems)


def _devices(
    nvml: Nvml,
    handle: Handle,
    driver: str,
    functions: dict[str, PciFunction],
    host: HostMemory,
) -> list[Device]:
    """A GPU, or the partitions it is cut into; raises NvmlError for one that is lost."""
    bus_id = nvml.bus_id(handle)
    address = None if bus_id is None else short_address(bus_id)
    function = functions.get(address or "")
    whole = _device(nvml, handle, driver, host)
    links = {short_address(other): n for other, n in nvml.nvlinks(handle).items()}
    whole = msgspec.structs.replace(
        whole,
        pci=address,
        numa_node=None if function is None else function.numa_node,
        gpu=GpuFacts(
            capability=nvml.capability(handle),
            link=None if function is None else function.link,
            ecc=nvml.ecc(handle),
            uncorrected_errors=nvml.uncorrected_errors(handle),
            peers=links,
        ),
    )
    if not nvml.is_partitioned(handle):
        return [whole]
    return [_partition(nvml, part, whole, driver, host) for part in nvml.partitions(handle)]


def _partition(nvml: Nvml, handle: Handle, whole: Device, driver: str, host: HostMemory) -> Device:
    """One instance: its own memory, the sensors of the whole."""
    part = _device(nvml, handle, driver, host)
    facts = whole.gpu or GpuFacts()
    profile = _PROFILE.search(part.description)
    return msgspec.structs.replace(
        part,
        pci=whole.pci,
        numa_node=whole.numa_node,
        gpu=msgspec.structs.replace(
            facts,
            partition_of=whole.identity,
            partition=profile.group() if profile else None,
            peers={},
        ),
        reading=msgspec.structs.replace(
            whole.reading, free_bytes=part.reading.free_bytes, utilization=None
        ),
    )


def _device(nvml: Nvml, handle: Handle, driver: str, host: HostMemory) -> Device:
    memory = nvml.memory(handle)
    total, free = memory or (host.total_bytes, unified_free_bytes(None, host))
    return Device(
        name="",
        identity=f"nvidia:{nvml.uuid(handle)}",
        kind="gpu",
        vendor="nvidia",
        description=nvml.name(handle) or "NVIDIA GPU",
        driver=driver,
        total_bytes=total,
        unified=memory is None,
        reading=Reading(
            free_bytes=free,
            utilization=nvml.utilization(handle),
            temperature_celsius=nvml.temperature_celsius(handle),
            power_watts=nvml.power_watts(handle),
            power_limit_watts=nvml.power_limit_watts(handle),
        ),
    )
