"""hearthd for a bench: on a free port, with a state folder of its own."""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from hearth_bench.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Daemon:
    """How to start it, and where it will answer."""

    command: str
    endpoint: Endpoint
    port: int
    log: Path


def plan_daemon(
    folder: Path, model: str | None, settings: list[str], command: str | None = None
) -> Daemon:
    """hearthd's command line; `model` is NAME=PATH, or None for the built-in one.

    Devices are not tested meanwhile, unless `settings` says so.
    """
    port = free_port()
    parts = [
        command or f"{sys.executable} -m hearthd",
        f"--listen 127.0.0.1:{port}",
        f"--socket {folder / 'hearthd.sock'}",
        f"--state {folder / 'state'}",
        "--set hardware.checkup=false",
    ]
    if model is not None:
        parts.append(f"--model {model}")
    parts += [f"--set {setting}" for setting in settings]
    return Daemon(" ".join(parts), Endpoint(f"http://127.0.0.1:{port}"), port, folder / "log")


def free_port() -> int:
    """A port on loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
