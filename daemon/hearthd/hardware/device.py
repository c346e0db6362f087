"""Device: one thing that models can run on, with an identity that outlives restarts and reordering."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["cpu", "gpu", "npu"]
State: TypeAlias = Literal["ready", "silent", "failed", "unconfirmed", "gone"]
"""silent: its driver does not answer. failed: its driver says no. unconfirmed: a backend lists it, the
system does not. gone: it was there since the daemon started."""


class Reading(msgspec.Struct, frozen=True):
    """What changes all the time; None is unknown."""

    free_bytes: int | None = None
    utilization: float | None = None  # 0 to 1
    temperature_celsius: float | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None


class PciLink(msgspec.Struct, frozen=True):
    """The widest and fastest that the slot and the device can do together."""

    gigatransfers: float  # a second and lane
    width: int  # lanes


class CpuFacts(msgspec.Struct, frozen=True):
    """The processors of one memory node, as far as this process may use them."""

    node: int
    cpus: list[int]  # numbers of logical processors
    cores: int  # physical ones among them
    fast_cores: int  # without the efficient cores of a mixed processor
    isa: list[str]  # what matters for models: "avx2", "avx512-vnni", "amx-int8", "neon", ...
    quota_cpus: float | None = None  # processors' time that a control group grants
    distances: dict[int, int] = {}  # to other nodes, in the kernel's unit: 10 is the own


class GpuFacts(msgspec.Struct, frozen=True):
    """What is particular to accelerators; None is unknown."""

    capability: str | None = None  # "8.9", "gfx1100"
    link: PciLink | None = None
    ecc: bool | None = None
    uncorrected_errors: int | None = None  # since the driver was loaded
    partition_of: str | None = None  # identity of the GPU whose slice this is
    partition: str | None = None  # "3g.20gb"
    peers: dict[str, int] = {}  # PCI address of another GPU to the number of direct links


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """As everybody in the daemon knows it; `name` is what the configuration calls it."""

    name: str
    identity: str  # "nvidia:GPU-…", "pci:0000:03:00.0", "node:0"
    kind: Kind
    vendor: str
    description: str
    state: State = "ready"
    problem: str | None = None  # why it is not ready, and what helps
    driver: str | None = None  # name and version
    pci: str | None = None  # "0000:03:00.0"
    numa_node: int | None = None
    total_bytes: int | None = None
    unified: bool = False  # its memory is the host's
    cpu: CpuFacts | None = None
    gpu: GpuFacts | None = None
    reading: Reading = Reading()
    backends: dict[str, str] = {}  # backends that can use it, and what each calls it


class Findings(msgspec.Struct, frozen=True):
    """What one look at one source gave; names are given later, by the inventory."""

    devices: list[Device] = []
    problems: list[str] = []


def lasting(device: Device) -> Device:
    """The device without what changes all the time; pure."""
    return msgspec.structs.replace(device, reading=Reading())
