"""Devices: load, memory by lease and by true use, temperature and watts, one device a line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from hearth_tui.top.history import History
from hearth_tui.top.lines import device_line
from hearth_tui.top.types import DeviceLoad
from hearth_tui.widgets.line import Line

_NAME_COLUMNS = 7


class Devices(Line):
    """Grows with their number."""

    DEFAULT_CSS = """
    Devices { height: auto; max-height: 5; padding: 0 1; border-top: solid $primary-darken-1; border-title-color: $text-muted; }
    """

    def __init__(self) -> None:
        super().__init__(id="devices")
        self.border_title = "devices"
        self._n_lines = 0

    def show_devices(self, devices: Sequence[DeviceLoad], history: History) -> None:
        """Those that are there."""
        columns = max([_NAME_COLUMNS, *(len(device.name) for device in devices)])
        lines = [device_line(device, history, min(columns, 12)) for device in devices]
        changed = self.show(Text("\n", no_wrap=True, overflow="ellipsis").join(lines))
        if changed and len(lines) != self._n_lines:
            self._n_lines = len(lines)
            self.refresh(layout=True)
