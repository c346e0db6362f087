"""Uevents: the kernel's own word that a device has come or gone, where it may be heard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_MESSAGE_BYTES = 1 << 16
SUBSYSTEMS = frozenset({"pci", "drm", "accel", "kfd", "nvidia", "module", "cpu", "node", "memory"})
"""Whose events are a reason to look."""


def subsystem_of(message: bytes) -> str | None:
    """Of a message of the kernel: "add@/devices/…", then KEY=value, each ended by a zero byte; pure."""
    for part in message.split(b"\0"):
        key, _, value = part.partition(b"=")
        if key == b"SUBSYSTEM":
            return value.decode(errors="replace")
    return None


def kernel_socket() -> socket.socket | None:
    """A socket on which the kernel tells its events; None where it tells none to this process."""
    try:
        found = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _KOBJECT_UEVENT
        )
    except OSError as error:
        log.debug("no events of devices: %s", error)
        return None
    try:
        found.bind((0, _KERNEL_GROUP))
    except OSError as error:
        log.debug("no events of devices: %s", error)
        found.close()
        return None
    return found


@contextlib.contextmanager
def listening(source: socket.socket | None, hear: Callable[[], None]) -> Iterator[None]:
    """Call `hear` for each event that is a reason to look; closes the socket. Needs a running loop."""
    if source is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        while True:
            try:
                message = source.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:  # the buffer ran over: some were lost
                hear()
                return
            if subsystem_of(message) in SUBSYSTEMS:
                hear()

    loop.add_reader(source, on_readable)
    try:
        yield
    finally:
        loop.remove_reader(source)
        source.close()
