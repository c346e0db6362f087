"""DeviceBudgets: the ledger's budgets follow the devices as they come, change and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hearthd.hardware.device import Device
from hearthd.hardware.inventory import DeviceEvent
from hearthd.hardware.memory import less_reserve
from hearthd.placement.ledger import HOST_POOL, Ledger


class DeviceBudgets:
    """Hears of devices, and tells the ledger; belongs to the event loop's thread."""

    def __init__(self, ledger: Ledger, configured: Mapping[str, int]) -> None:
        """`configured`: bytes by device, which count before what is found."""
        self._ledger = ledger
        self._configured = configured

    def take_in(self, devices: Iterable[Device]) -> None:
        """What is there already."""
        for device in devices:
            self._take_in(device)

    def on_event(self, event: DeviceEvent) -> None:
        """Something is not as it was."""
        self._take_in(event.device)

    def _take_in(self, device: Device) -> None:
        self._ledger.close(device.name, unusable(device))
        if device.kind == "cpu" or device.name in self._configured or device.state != "ready":
            return
        if device.unified:
            self._ledger.join(device.name, HOST_POOL)
        elif self._ledger.budget_bytes(device.name) is None:
            free = device.reading.free_bytes
            if free is not None:
                self._ledger.set_budget(device.name, less_reserve(free))


def unusable(device: Device) -> str | None:
    """Why nothing may be put on a device, in words; None where something may. Pure."""
    if device.state in ("ready", "unconfirmed"):
        return None
    return f"{device.name} ({device.description}) is {device.state}: {device.problem}"
