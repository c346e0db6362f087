"""Leased: what a running daemon would give of each device's memory, and who has the rest, asked at its Unix socket."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass

import msgspec

ASK_SECONDS = 5.0


class DeviceLeases(msgspec.Struct, frozen=True):
    """Of one device."""

    name: str
    kind: str
    leasable_bytes: int | None = None  # None: not known
    leases: dict[str, int] = {}  # bytes by model


class _Top(msgspec.Struct, frozen=True):
    devices: list[DeviceLeases]


@dataclass(frozen=True, slots=True)
class Leased:
    """Of a box."""

    devices: tuple[DeviceLeases, ...]

    def free_bytes(self, name: str, model: str) -> int | None:
        """What would be free on a device if a model were not loaded; None: not known."""
        own = next((d for d in self.devices if d.name == name), None)
        if own is None or own.leasable_bytes is None:
            return None
        return own.leasable_bytes + self.held(name).get(model, 0)

    def held(self, name: str) -> dict[str, int]:
        """Bytes by model of the memory that a device draws on: processors share theirs."""
        own = next((d for d in self.devices if d.name == name), None)
        sharing = [d for d in self.devices if d is own or (own and d.kind == own.kind == "cpu")]
        found: dict[str, int] = {}
        for device in sharing:
            for model, n_bytes in device.leases.items():
                found[model] = found.get(model, 0) + n_bytes
        return found


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ASK_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(ASK_SECONDS)
        self.sock.connect(self._path)


def ask_daemon(socket_path: str) -> Leased | None:
    """What the daemon at a socket has leased; None where none answers there."""
    connection = _Connection(socket_path)
    try:
        connection.request("GET", "/api/v1/top?log_limit=0")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            return None
        return Leased(tuple(msgspec.json.decode(body, type=_Top).devices))
    except (OSError, http.client.HTTPException, msgspec.MsgspecError):
        return None
    finally:
        connection.close()
