"""The typed keys under which the app carries what handlers use."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from aiohttp import web

from hearthd.access.attempts import Attempts
from hearthd.access.keyring import Keyring
from hearthd.access.peer import Trust, own_trust
from hearthd.access.register import Register
from hearthd.access.tls import Tls
from hearthd.batch.service import Batches
from hearthd.cache.service import ResponseCache
from hearthd.hardware.checkup import Checkup
from hearthd.hardware.monitor import DeviceMonitor
from hearthd.serving.service import Serving
from hearthd.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """What the HTTP layer is told of the configuration."""

    max_body_bytes: int = 32 * 1024 * 1024
    insecure: bool = False  # no address needs a key
    compress_local: bool = False  # also what goes to this machine itself
    keep_alive_seconds: float = 15.0  # of silence on a stream, before a comment is sent


def _host_names() -> frozenset[str]:
    name = socket.gethostname().lower()
    return frozenset({name, name.partition(".")[0], f"{name.partition('.')[0]}.local"})


@dataclass(frozen=True, slots=True)
class Gate:
    """What is known of those who come in, beside the keys."""

    attempts: Attempts = field(default_factory=Attempts)
    trust: Trust = field(default_factory=own_trust)
    trust_loopback: bool = True
    host_names: frozenset[str] = field(default_factory=_host_names)


BATCHES = web.AppKey("batches", Batches)
SERVING = web.AppKey("serving", Serving)
CACHE = web.AppKey("cache", ResponseCache)
CHECKUP = web.AppKey("checkup", Checkup)
DEVICES = web.AppKey("devices", DeviceMonitor)
GATE = web.AppKey("gate", Gate)
KEYRING = web.AppKey("keyring", Keyring)
METRICS = web.AppKey("metrics", Metrics)
OPTIONS = web.AppKey("options", ApiOptions)
REGISTER = web.AppKey("register", Register)
TLS = web.AppKey("tls", Tls)
