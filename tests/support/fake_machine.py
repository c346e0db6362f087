"""FakeMachine: a tree of /proc and /sys for machines that are not here; and NVML in a library of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

GIB = 1 << 30
_STUB = Path(__file__).with_name("nvml_stub.c")
_CPU = "sys/devices/system/cpu"


class FakeMachine:
    """Files below a root; what a test does not lay down is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, text: object) -> None:
        """A file with one text."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def link(self, name: str, target: str) -> None:
        """A link whose target, also below the root, is there afterwards."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.root / target).mkdir(parents=True, exist_ok=True)
        ups = "../" * name.count("/")
        path.symlink_to(ups + target)

    def remove(self, name: str) -> None:
        """A file, a link or a folder."""
        path = self.root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()

    # --- processors ----------------------------------------------------------------------------

    def host(
        self,
        *,
        nodes: Sequence[Sequence[int]] = ((0, 1),),
        threads_per_core: int = 1,
        model: str = "Test CPU",
        flags: str = "avx2 fma",
        total: int = 32 * GIB,
        available: int = 24 * GIB,
    ) -> None:
        """Processors by memory node; neighbours in number are threads of a core."""
        cpus = [cpu for node in nodes for cpu in node]
        self.write(
            "proc/cpuinfo",
            f"processor : 0\nvendor_id : GenuineIntel\nmodel name : {model}\nflags : {flags}\n",
        )
        self.write(
            "proc/meminfo", f"MemTotal: {total >> 10} kB\nMemAvailable: {available >> 10} kB"
        )
        self.write("proc/self/status", f"Name:\tx\nCpus_allowed_list:\t{_list(cpus)}")
        self.write("proc/self/cgroup", "0::/service")
        self.write(f"{_CPU}/online", _list(cpus))
        for number, node in enumerate(nodes):
            here = f"sys/devices/system/node/node{number}"
            self.write(f"{here}/cpulist", _list(node))
            self.write(
                f"{here}/meminfo",
                f"Node {number} MemTotal: {total // len(nodes) >> 10} kB\n"
                f"Node {number} MemFree: {available // len(nodes) >> 10} kB\n",
            )
            distances = " ".join("10" if number == other else "21" for other in range(len(nodes)))
            self.write(f"{here}/distance", distances)
            for cpu in node:
                topology = f"{_CPU}/cpu{cpu}/topology"
                self.write(f"{topology}/physical_package_id", number)
                self.write(f"{topology}/core_id", cpu // threads_per_core)

    def allow(self, cpus: str) -> None:
        """The process's own mask."""
        self.write("proc/self/status", f"Name:\tx\nCpus_allowed_list:\t{cpus}")

    # --- cards ---------------------------------------------------------------------------------

    def pci(
        self,
        address: str,
        vendor: int,
        device: int,
        driver: str | None,
        *,
        klass: int = 0x030000,
        node: int = -1,
        speed: str = "16.0 GT/s PCIe",
        width: int = 16,
        **files: object,
    ) -> str:
        """A function on the bus; returns its folder."""
        path = f"sys/bus/pci/devices/{address}"
        values = {
            "vendor": f"0x{vendor:04x}",
            "device": f"0x{device:04x}",
            "class": f"0x{klass:06x}",
        }
        values |= {"numa_node": str(node), "max_link_speed": speed, "max_link_width": str(width)}
        for name, value in {**values, **files}.items():
            self.write(f"{path}/{name}", value)
        if driver is not None:
            self.link(f"{path}/driver", f"sys/bus/pci/drivers/{driver}")
        return path

    def amd(
        self,
        address: str = "0000:03:00.0",
        *,
        vram: int = 24 * GIB,
        vram_used: int = GIB,
        gtt: int = 16 * GIB,
        gtt_used: int = 0,
        gfx: int = 110000,
        kfd_node: int = 1,
        device: int = 0x744C,
    ) -> str:
        """A GPU of amdgpu with its KFD node and sensors."""
        path = self.pci(
            address,
            0x1002,
            device,
            "amdgpu",
            mem_info_vram_total=vram,
            mem_info_vram_used=vram_used,
            mem_info_gtt_total=gtt,
            mem_info_gtt_used=gtt_used,
            gpu_busy_percent=17,
            unique_id=f"a1b2{kfd_node:04x}",
        )
        self.write(f"{path}/hwmon/hwmon3/temp1_input", 52000)
        self.write(f"{path}/hwmon/hwmon3/power1_average", 43_000_000)
        self.write(f"{path}/hwmon/hwmon3/power1_cap", 300_000_000)
        domain, bus, rest = address.split(":")
        slot, function = rest.split(".")
        place = int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)
        kfd = f"sys/class/kfd/kfd/topology/nodes/{kfd_node}"
        self.write(f"{kfd}/name", "navi31")
        self.write(
            f"{kfd}/properties",
            f"simd_count 192\nlocation_id {place}\ndomain {int(domain, 16)}\n"
            f"gfx_target_version {gfx}",
        )
        return path

    def intel(self, address: str = "0000:0a:00.0", *, driver: str = "xe") -> str:
        """A GPU; on a card of its own unless it is at 0000:00:02.0."""
        path = self.pci(address, 0x8086, 0x56A0, driver)
        self.write(
            f"{path}/resource",
            "0x00000000b1000000 0x00000000b1ffffff 0x0000000000140204\n"
            f"0x0000004000000000 0x{0x4000000000 + 16 * GIB - 1:016x} 0x000000000014220c",
        )
        self.write(f"{path}/hwmon/hwmon4/energy1_input", 1_000_000)
        self.write(f"{path}/hwmon/hwmon4/temp2_input", 41000)
        return path

    def npu(self, address: str = "0000:00:0b.0", *, driver: str = "intel_vpu") -> None:
        """An accelerator of the kernel's class."""
        path = self.pci(address, 0x8086, 0x7D1D, driver, klass=0x120000)
        self.link("sys/class/accel/accel0/device", path)

    def nvidia(self, address: str = "0000:01:00.0", *, driver: str | None = "nvidia") -> str:
        """A card as the bus shows it."""
        return self.pci(address, 0x10DE, 0x2684, driver, node=0)


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the stub NVML says of one GPU; `ret` 15: it is lost."""

    uuid: str = "GPU-1"
    bus: str = "00000000:01:00.0"
    total_mib: int = 24576  # 0: it has none of its own
    used_mib: int = 1024
    name: str = "NVIDIA GeForce RTX 4090"
    ret: int = 0
    mig: tuple[str, ...] = ()  # names of its instances
    nvlinks: tuple[str, ...] = ()  # bus ids of the other ends


class StubNvml:
    """A library with NVML's functions, which says what a file beside it says."""

    def __init__(self, library: Path) -> None:
        self.library = str(library)
        self._state = library.with_suffix(".state")
        self.say()

    def say(self, *gpus: Gpu, init: int = 0, driver: str = "550.54.15", hang: bool = False) -> None:
        """What it answers from now on; `init`: what its start returns; `hang`: it never returns."""
        lines = [f"init {init}", f"driver {driver}", f"hang {int(hang)}"]
        for gpu in gpus:
            lines.append(
                f"gpu {gpu.ret} {gpu.uuid} {gpu.bus} {gpu.total_mib} {gpu.used_mib} {gpu.name}"
            )
            lines += [f"mig {name}" for name in gpu.mig]
            lines += [f"link {bus}" for bus in gpu.nvlinks]
        fresh = self._state.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.replace(self._state)


def build_stub_nvml(folder: Path, *options: str) -> StubNvml:
    """Compile it; skips the test where there is no C compiler. "-DOLD": of an old driver."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", *options, "-o", str(library), str(_STUB), "-ldl"],
        check=True,
    )
    return StubNvml(library)


def _list(cpus: Sequence[int]) -> str:
    return ",".join(map(str, cpus))
