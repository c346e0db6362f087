"""GET /api/v1/devices and the gauges of devices."""

from __future__ import annotations

import asyncio
from pathlib import Path

from api_server import ApiServer
from fake_machine import GIB, FakeMachine
from fake_serving import FakeServing
from prometheus_client.parser import text_string_to_metric_families

from hearthd.hardware.monitor import DeviceMonitor, MonitorOptions


async def test_devices_and_their_gauges(serving: FakeServing, tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path / "machine")
    machine.host()
    machine.amd()
    monitor = await asyncio.to_thread(DeviceMonitor, MonitorOptions(machine.root, probe=None))
    server = ApiServer(serving, devices=monitor)
    async with server, server.http() as http, monitor.running():
        await monitor.first_look(20)
        async with http.get("/api/v1/devices") as answer:
            assert answer.status == 200
            body = await answer.json()
        async with http.get("/metrics") as answer:
            text = await answer.text()
    assert [device["name"] for device in body["devices"]] == ["cpu:0", "rocm:0"]
    assert body["devices"][1]["reading"]["free_bytes"] == 23 * GIB
    assert (body["problems"], body["absent_backends"]) == ([], {})
    samples = {
        (sample.name, sample.labels["device"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "device" in sample.labels
    }
    assert samples["hearth_device_up", "rocm:0"] == 1
    assert samples["hearth_device_memory_bytes", "rocm:0"] == 24 * GIB
    assert samples["hearth_device_temperature_celsius", "rocm:0"] == 52
    assert samples["hearth_device_power_watts", "rocm:0"] == 43
    assert ("hearth_device_power_watts", "cpu:0") not in samples
