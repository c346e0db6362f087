"""BackendView: what the backends say of this machine's devices, asked of a child process."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from dataclasses import dataclass

import msgspec

from hearthd.hardware.device import Kind

PROBE_SECONDS = 120.0
"""The first use of a GPU by a backend compiles, on some."""
KILL_SECONDS = 1.0


class BackendDevice(msgspec.Struct, frozen=True):
    """A device as one backend sees it."""

    name: str
    kind: Kind
    description: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    id: str | None = None  # PCI address or UUID, where the backend knows it
    vendor: str | None = None


class BackendView(msgspec.Struct, frozen=True):
    """Devices and version by backend; and why a backend is absent."""

    backends: dict[str, list[BackendDevice]] = {}
    versions: dict[str, str] = {}
    absent: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class BackendsSilent(Exception):
    """The child failed or was not done in time; `reason` in words."""

    reason: str


def probe_command() -> list[str]:
    """argv of the child."""
    return [sys.executable, "-P", "-m", "hearthd.engine", "--probe"]


async def ask_backends(command: list[str], *, limit_seconds: float = PROBE_SECONDS) -> BackendView:
    """What they say now; raises BackendsSilent. Cancelling kills the child."""
    try:
        child = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, process_group=0
        )
    except OSError as error:
        raise BackendsSilent(f"the probe could not be started: {error}") from error
    try:
        async with asyncio.timeout(limit_seconds):
            output, _ = await child.communicate()
        return msgspec.json.decode(output, type=BackendView)
    except TimeoutError:
        raise BackendsSilent(f"the probe was not done within {limit_seconds:g} s") from None
    except msgspec.MsgspecError as error:
        raise BackendsSilent(
            f"the probe ended with status {child.returncode} and no report: {error}"
        ) from error
    finally:
        if child.returncode is None:
            child.kill()
            await asyncio.wait({asyncio.create_task(child.wait())}, timeout=KILL_SECONDS)
