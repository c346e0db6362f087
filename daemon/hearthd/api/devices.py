"""What this machine has to run models on."""

from __future__ import annotations

import msgspec
from aiohttp import web

from hearthd.api.keys import CHECKUP, DEVICES
from hearthd.api.response import json_response
from hearthd.hardware.checks import PairReport
from hearthd.hardware.device import Device


class DeviceList(msgspec.Struct, frozen=True):
    """Every device that was there since the daemon started, and what could not be found out."""

    devices: tuple[Device, ...]
    problems: tuple[str, ...]
    absent_backends: dict[str, str]
    checks: tuple[PairReport, ...]


async def list_devices(request: web.Request) -> web.Response:
    """What is known now; asks no driver."""
    monitor = request.app[DEVICES]
    inventory = monitor.inventory
    return json_response(
        DeviceList(
            inventory.devices,
            inventory.problems,
            monitor.absent_backends,
            request.app[CHECKUP].reports,
        )
    )
