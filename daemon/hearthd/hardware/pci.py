"""PCI functions: what the kernel knows of a card whatever its driver, and its sensors."""

from __future__ import annotations

from dataclasses import dataclass

from hearthd.hardware.device import PciLink
from hearthd.hardware.tree import Tree

NVIDIA, AMD, INTEL = 0x10DE, 0x1002, 0x8086
_DISPLAY = 0x03
_ACCELERATOR = 0x12


@dataclass(frozen=True, slots=True)
class PciFunction:
    """One function; `path` is its folder below the tree's root."""

    address: str  # "0000:03:00.0"
    path: str
    vendor: int
    device: int
    klass: int  # the upper eight bits of the class code
    driver: str | None
    numa_node: int | None
    link: PciLink | None

    @property
    def is_display(self) -> bool:
        """Whether it draws, or could."""
        return self.klass == _DISPLAY

    @property
    def is_accelerator(self) -> bool:
        """Whether it computes and does nothing else."""
        return self.klass == _ACCELERATOR


def read_functions(tree: Tree) -> list[PciFunction]:
    """Displays and accelerators, by address."""
    folder = "sys/bus/pci/devices"
    functions = (_read(tree, folder, address) for address in tree.names(folder))
    return [f for f in functions if f is not None and (f.is_display or f.is_accelerator)]


def short_address(bus_id: str) -> str:
    """NVML's "00000000:03:00.0" as the kernel writes it."""
    domain, colon, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}{colon}{rest}"


def driver_label(tree: Tree, driver: str | None) -> str | None:
    """A driver's name, with its version where the module has one, or the kernel's."""
    if driver is None:
        return None
    version = tree.text(f"sys/module/{driver.replace('-', '_')}/version") or tree.text(
        "proc/sys/kernel/osrelease"
    )
    return f"{driver} {version}" if version else driver


def sensor_folder(tree: Tree, path: str) -> str | None:
    """Where a function's hardware monitor is."""
    names = tree.names(f"{path}/hwmon")
    return f"{path}/hwmon/{names[0]}" if names else None


def scaled(number: int | None, divisor: float) -> float | None:
    """A sensor's number in the unit of people."""
    return None if number is None else number / divisor


def _read(tree: Tree, folder: str, address: str) -> PciFunction | None:
    path = f"{folder}/{address}"
    vendor, device = tree.number(f"{path}/vendor"), tree.number(f"{path}/device")
    klass = tree.number(f"{path}/class")
    if vendor is None or device is None or klass is None:
        return None
    node = tree.number(f"{path}/numa_node")
    return PciFunction(
        address=address,
        path=path,
        vendor=vendor,
        device=device,
        klass=klass >> 16,
        driver=tree.target(f"{path}/driver"),
        numa_node=None if node is None or node < 0 else node,
        link=_link(tree, path),
    )


def _link(tree: Tree, path: str) -> PciLink | None:
    """The most it can do: idle cards slow their link down."""
    for kind in ("max", "current"):
        speed = (tree.text(f"{path}/{kind}_link_speed") or "").split()[:1]
        width = tree.number(f"{path}/{kind}_link_width")
        try:
            if speed and width:
                return PciLink(float(speed[0]), width)
        except ValueError:  # "Unknown"
            continue
    return None
