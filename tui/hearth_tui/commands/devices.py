"""`hearth devices`: what the box can run models on."""

from __future__ import annotations

import argparse
import sys

import msgspec

from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK
from hearth_tui.printable import one_line
from hearth_tui.types import DeviceList


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to print them."""
    parser.add_argument(
        "--json", action="store_true", help="print what /api/v1/devices answers, whole"
    )


def run(arguments: argparse.Namespace) -> int:
    """List the devices and return the exit status."""
    with open_box(arguments) as box:
        if arguments.json:
            print(msgspec.json.format(box.devices_json(), indent=2).decode())
        else:
            print_devices(box.devices())
    return EXIT_OK


def print_devices(listed: DeviceList) -> None:
    """The table, and below it what is wrong and what is absent."""
    from hearth_tui.device_table import device_table
    from hearth_tui.tables import make_console

    if not listed.devices:
        print("the box knows no devices", file=sys.stderr)
        return
    console = make_console()
    console.print(device_table(listed.devices))
    for device in listed.devices:
        if device.problem is not None:
            console.print(f"{one_line(device.name)}: {one_line(device.problem)}", style="red")
    for check in listed.checks:
        if check.outcome == "failed":
            what = f"{check.device} with {check.backend}: in quarantine: {check.reason}; {check.remedy}"
            console.print(one_line(what), style="red")
    for problem in listed.problems:
        console.print(one_line(problem), style="yellow")
    for backend, why in listed.absent_backends.items():
        console.print(one_line(f"no backend {backend}: {why}"), style="dim")
