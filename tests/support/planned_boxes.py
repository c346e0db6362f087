"""Boxes for placing models: devices, facts of a model, and who watches the devices, all made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hearthd.hardware.device import CpuFacts, Device, Reading
from hearthd.hardware.inventory import Inventory
from hearthd.placement.candidates import Estimate, ModelFacts, Shape

MIB = 1 << 20
GIB = 1 << 30


def processor(node: int = 0, backend: str = "gguf", own_name: str = "cpu:0") -> Device:
    """A memory node with two processors of its own."""
    return Device(
        name=f"cpu:{node}", identity=f"node:{node}", kind="cpu", vendor="amd", description="Cores",
        backends={backend: own_name}, reading=Reading(free_bytes=8 * GIB),
        cpu=CpuFacts(node=node, cpus=[2 * node, 2 * node + 1], cores=2, fast_cores=2, isa=[]),
    )  # fmt: skip


def card(number: int = 0, backend: str = "cuda", **fields: object) -> Device:
    """A GPU with 20 GiB free."""
    return Device(
        name=f"cuda:{number}", identity=f"nvidia:GPU-{number}", kind="gpu", vendor="nvidia",
        description="Card", reading=Reading(free_bytes=20 * GIB),
        backends={backend: f"cuda:{number}"}, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def facts(
    devices: Sequence[Device],
    *,
    layers: int = 8,
    layer_bytes: int = 100 * MIB,
    task: str = "generate",
    name: str = "m",
) -> ModelFacts:
    """Of a model that every backend of these devices runs; keys and values take 1 KiB a token and layer."""
    total = layers * layer_bytes + 20 * MIB
    estimate = Estimate(total, 1024.0 * layers, 10 * MIB)
    pairs = [pair for device in devices for pair in device.backends.items()]
    return ModelFacts(
        name=name, task=task, quantization="F16", context_trained=4096,
        layer_bytes=[layer_bytes] * layers,
        shape=Shape([layer_bytes // 2] * layers, 10 * MIB, 10 * MIB, 5 * MIB, 1024, tied=False),
        estimates={b: {n: estimate for other, n in pairs if other == b} for b, _ in pairs},
        support={b: {n: "yes" for other, n in pairs if other == b} for b, _ in pairs},
    )  # fmt: skip


@dataclass
class Watch:
    """Devices that are known already."""

    devices: tuple[Device, ...]
    n_looks: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def inventory(self) -> Inventory:
        return Inventory(self.devices)

    async def first_look(self, limit_seconds: float) -> None:
        self.n_looks += 1

    async def until_backends_known(self) -> None:
        pass

    async def facts_of(self, path: str) -> ModelFacts:
        """What a probe would say; remembers that it was asked."""
        self.asked.append(path)
        return facts(self.devices)
