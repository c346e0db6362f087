"""The monitor with real children: hot plug, drivers that hang or fail, and who is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fake_machine import FakeMachine, Gpu, StubNvml

from hearthd.hardware.backend_view import BackendsSilent, ask_backends
from hearthd.hardware.inventory import DeviceEvent
from hearthd.hardware.monitor import DeviceMonitor, MonitorOptions
from hearthd.hardware.scout import Scout, SourceFailed, SourceSilent, scan_command
from hearthd.hardware.uevents import kernel_socket, listening, subsystem_of

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 20.0


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.02)


@asynccontextmanager
async def monitoring(
    machine: FakeMachine,
    *,
    nvml: StubNvml | None = None,
    probe: list[str] | None = None,
    poll_seconds: float = POLL_SECONDS,
    later_seconds: float = 5.0,
) -> AsyncIterator[tuple[DeviceMonitor, list[DeviceEvent]]]:
    """A monitor that runs, and what it told."""
    library = None if nvml is None else nvml.library

    def make_scout(source: str) -> Scout:
        command = scan_command(source, machine.root, library)
        return Scout(command, first_seconds=PATIENCE_SECONDS, later_seconds=later_seconds)

    options = MonitorOptions(machine.root, library, poll_seconds, probe)
    monitor = await asyncio.to_thread(DeviceMonitor, options, make_scout)
    told: list[DeviceEvent] = []
    monitor.watch(told.append)
    async with monitor.running():
        yield monitor, told


def states(monitor: DeviceMonitor) -> dict[str, str]:
    return {device.name: device.state for device in monitor.inventory.devices}


async def test_processors_are_known_before_anything_runs(machine: FakeMachine) -> None:
    monitor = await asyncio.to_thread(DeviceMonitor, MonitorOptions(machine.root))
    assert states(monitor) == {"cpu:0": "ready"}


async def test_a_mixed_box_with_a_card_that_comes_and_goes(
    machine: FakeMachine, nvml: StubNvml
) -> None:
    machine.amd()
    nvml.say(Gpu())
    async with monitoring(machine, nvml=nvml) as (monitor, told):
        await monitor.first_look(PATIENCE_SECONDS)
        assert states(monitor) == {"cpu:0": "ready", "cuda:0": "ready", "rocm:0": "ready"}
        nvml.say(Gpu(), Gpu("GPU-2", "00000000:41:00.0"))
        await until(lambda: "cuda:1" in states(monitor))
        nvml.say(Gpu("GPU-2", "00000000:41:00.0"))
        await until(lambda: states(monitor)["cuda:0"] == "gone")
        nvml.say(Gpu(), Gpu("GPU-2", "00000000:41:00.0"))
        await until(lambda: states(monitor)["cuda:0"] == "ready")
        machine.remove("sys/bus/pci/devices/0000:03:00.0")
        await until(lambda: states(monitor)["rocm:0"] == "gone")
    cuda = [(e.kind, e.device.name) for e in told if e.device.name.startswith("cuda")]
    assert cuda == [
        ("appeared", "cuda:0"),
        ("appeared", "cuda:1"),
        ("gone", "cuda:0"),
        ("appeared", "cuda:0"),
    ]


async def test_the_first_card_of_a_maker_is_noticed_too(machine: FakeMachine) -> None:
    async with monitoring(machine) as (monitor, _):
        await monitor.first_look(PATIENCE_SECONDS)
        machine.intel()
        await until(lambda: states(monitor).get("xpu:0") == "ready")


async def test_readings_are_fresh(machine: FakeMachine, nvml: StubNvml) -> None:
    nvml.say(Gpu(used_mib=1000))
    async with monitoring(machine, nvml=nvml) as (monitor, told):
        await monitor.first_look(PATIENCE_SECONDS)
        n_told = len(told)

        def free() -> int | None:
            device = monitor.inventory.get("cuda:0")
            return None if device is None else device.reading.free_bytes

        nvml.say(Gpu(used_mib=2000))
        await until(lambda: free() == (24576 - 2000) << 20)
        assert len(told) == n_told


async def test_a_driver_that_hangs_holds_up_nobody_and_may_come_back(
    machine: FakeMachine, nvml: StubNvml
) -> None:
    machine.amd()
    nvml.say(Gpu())
    async with monitoring(machine, nvml=nvml, later_seconds=1.5) as (monitor, _):
        await monitor.first_look(PATIENCE_SECONDS)
        nvml.say(Gpu(), hang=True)
        await until(lambda: states(monitor)["cuda:0"] == "silent")
        await until(lambda: states(monitor)["rocm:0"] == "ready")
        device = monitor.inventory.get("cuda:0")
        assert device is not None
        assert "does not answer" in (device.problem or "")
        began = time.monotonic()
        await asyncio.sleep(0)
        assert time.monotonic() - began < 0.1
        machine.allow("0")  # the rest is still looked at
        await until(lambda: _cpus(monitor) == [0])
        nvml.say(Gpu())
        await until(lambda: states(monitor)["cuda:0"] == "ready")


def _cpus(monitor: DeviceMonitor) -> list[int]:
    device = monitor.inventory.get("cpu:0")
    assert device is not None
    assert device.cpu is not None
    return device.cpu.cpus


async def test_a_driver_that_fails_is_told_with_its_remedy_and_tried_again(
    machine: FakeMachine, nvml: StubNvml
) -> None:
    machine.nvidia()
    nvml.say(Gpu(), init=18)
    async with monitoring(machine, nvml=nvml) as (monitor, _):
        await until(lambda: states(monitor).get("cuda:0") == "failed")
        (problem,) = monitor.inventory.problems
        assert "different versions" in problem
        device = monitor.inventory.get("cuda:0")
        assert device is not None
        assert device.problem == problem
        nvml.say(Gpu())
        await until(lambda: states(monitor)["cuda:0"] == "ready")
        assert monitor.inventory.problems == ()
        assert len(monitor.inventory.devices) == 2


async def test_backends_are_asked_and_asked_again_when_devices_change(
    machine: FakeMachine, nvml: StubNvml, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    report = (
        '{"backends": {"b": [{"name": "cpu:0", "kind": "cpu", "description": "x"}]},'
        ' "absent": {"c": "not installed"}, "models": {}}'
    )
    script = f"open({str(count)!r}, 'a').write('x'); print({report!r})"
    async with monitoring(machine, nvml=nvml, probe=[sys.executable, "-c", script]) as (m, _):
        await until(lambda: m.backends_known)
        device = m.inventory.get("cpu:0")
        assert device is not None
        assert device.backends == {"b": "cpu:0"}
        assert m.absent_backends == {"c": "not installed"}
        nvml.say(Gpu())
        await until(lambda: count.stat().st_size == 2)
        await asyncio.sleep(10 * POLL_SECONDS)
        assert count.stat().st_size == 2


async def test_backends_that_say_nothing_are_a_problem_and_no_more(machine: FakeMachine) -> None:
    async with monitoring(machine, probe=["/bin/false"]) as (monitor, _):
        await until(lambda: monitor.backends_known)
        (problem,) = monitor.inventory.problems
        assert problem.startswith("backends: the probe ended with status 1")
        assert states(monitor) == {"cpu:0": "ready"}


async def test_a_probe_that_hangs_is_ended() -> None:
    with pytest.raises(BackendsSilent):
        await ask_backends(["/bin/sleep", "60"], limit_seconds=0.1)


async def test_the_real_backends_list_the_processor() -> None:
    monitor = await asyncio.to_thread(DeviceMonitor, MonitorOptions())
    async with monitor.running():
        await until(lambda: monitor.backends_known)
        device = monitor.inventory.get("cpu:0")
    assert device is not None
    assert "sim" in device.backends


# --- scouts ------------------------------------------------------------------------------------


async def test_a_child_that_ends_is_replaced() -> None:
    scout = Scout(["/bin/false"])
    for _ in range(2):
        with pytest.raises(SourceFailed):
            await scout.look()
    missing = Scout(["/nothing/here"])
    with pytest.raises(SourceFailed, match="could not be started"):
        await missing.look()


async def test_a_child_that_is_stopped_is_silent_and_then_replaced(machine: FakeMachine) -> None:
    machine.amd()
    scout = Scout(scan_command("sysfs", machine.root, None), later_seconds=0.3)
    assert len((await scout.look()).devices) == 1
    child = scout._child
    assert child is not None
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(SourceSilent):
        await scout.look()
    assert len((await scout.look()).devices) == 1
    await scout.close()


async def test_a_child_that_cannot_die_is_not_followed_by_another(machine: FakeMachine) -> None:
    scout = Scout(["/bin/sleep", "60"], first_seconds=0.1)
    child = await asyncio.create_subprocess_exec("/bin/sleep", "60")
    scout._dying = child
    with pytest.raises(SourceSilent):
        await scout.look()
    assert scout._child is None
    child.kill()
    await child.wait()
    with pytest.raises(SourceSilent):  # its own, which says nothing either
        await scout.look()


# --- the kernel's events -----------------------------------------------------------------------


def test_messages_of_the_kernel() -> None:
    message = b"add@/devices/pci0000:00/0000:01:00.0\0ACTION=add\0SUBSYSTEM=pci\0SEQNUM=1\0"
    assert subsystem_of(message) == "pci"
    assert subsystem_of(b"libudev\0\xfe\xed") is None


async def test_events_of_devices_are_heard_and_others_are_not() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    heard: list[int] = []
    with theirs, listening(ours, lambda: heard.append(1)):
        theirs.send(b"change@/x\0SUBSYSTEM=tty\0")
        theirs.send(b"add@/x\0SUBSYSTEM=drm\0")
        await until(lambda: bool(heard))
    assert heard == [1]


async def test_an_event_brings_a_look_long_before_the_next_turn(machine: FakeMachine) -> None:
    async with monitoring(machine, poll_seconds=10.0) as (monitor, _):
        await monitor.first_look(PATIENCE_SECONDS)
        await asyncio.sleep(0.1)
        machine.amd()
        monitor.look_again()
        began = time.monotonic()
        await until(lambda: "rocm:0" in states(monitor))
        assert time.monotonic() - began < 5


def test_the_kernels_socket_can_be_had_or_not() -> None:
    found = kernel_socket()
    if found is not None:
        found.close()
