"""The table of devices."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from hearth_tui import figures
from hearth_tui.printable import one_line
from hearth_tui.types import Device

_STATE_STYLES = {"ready": "green", "unconfirmed": "yellow", "silent": "red", "failed": "red"}
_NUMBERS = ("FREE", "MEMORY", "HEAT", "POWER")
_SHOWN_ISA = ("avx2", "avx512", "avx512-vnni", "amx-int8", "neon", "dotprod", "i8mm", "sve", "sve2")
"""What tells processors apart; the whole list is in the JSON."""


def device_table(devices: Sequence[Device]) -> Table:
    """One row for each, its name first."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("DEVICE", "STATE", "FREE", "MEMORY", "HEAT", "POWER", "BACKENDS", "WHAT"):
        table.add_column(
            name,
            justify="right" if name in _NUMBERS else "left",
            no_wrap=name != "WHAT",
            overflow="fold",
        )
    for device in devices:
        reading = device.reading
        table.add_row(
            Text(one_line(device.name)),
            Text(one_line(device.state or ""), style=_STATE_STYLES.get(device.state or "", "dim")),
            figures.data_size(reading.free_bytes),
            figures.data_size(device.total_bytes) + (" shared" if device.unified else ""),
            _number(reading.temperature_celsius, "°C"),
            _power(reading.power_watts, reading.power_limit_watts),
            Text(one_line(", ".join(device.backends) or figures.UNKNOWN)),
            Text(one_line(what(device))),
        )
    return table


def what(device: Device) -> str:
    """What it is, in one line."""
    parts = [device.description or device.vendor or device.kind or figures.UNKNOWN]
    if device.cpu is not None:
        cores, fast = device.cpu.cores, device.cpu.fast_cores
        if cores is not None:
            parts.append(f"{cores} core{'' if cores == 1 else 's'}")
        if fast is not None and fast != cores:
            parts.append(f"{fast} of them fast")
        if device.cpu.quota_cpus is not None:
            parts.append(f"quota {device.cpu.quota_cpus:g}")
        parts += [isa for isa in device.cpu.isa if isa in _SHOWN_ISA]
    if device.gpu is not None and device.gpu.capability is not None:
        parts.append(device.gpu.capability)
    if device.driver is not None:
        parts.append(device.driver)
    return ", ".join(parts)


def _number(value: float | None, unit: str) -> str:
    return figures.UNKNOWN if value is None else f"{value:.0f}{unit}"


def _power(watts: float | None, limit: float | None) -> str:
    if watts is None:
        return figures.UNKNOWN
    return f"{watts:.0f} W" if limit is None else f"{watts:.0f}/{limit:.0f} W"
