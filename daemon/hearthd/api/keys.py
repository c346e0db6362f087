"""The typed keys under which the app carries what handlers use."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from hearthd.cache.service import ResponseCache
from hearthd.hardware.checkup import Checkup
from hearthd.hardware.monitor import DeviceMonitor
from hearthd.serving.principal import Keyring
from hearthd.serving.service import Serving
from hearthd.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """What the HTTP layer is told of the configuration."""

    max_body_bytes: int = 32 * 1024 * 1024
    insecure: bool = False  # no address needs a key
    compress_local: bool = False  # also what goes to this machine itself
    keep_alive_seconds: float = 15.0  # of silence on a stream, before a comment is sent


SERVING = web.AppKey("serving", Serving)
CACHE = web.AppKey("cache", ResponseCache)
CHECKUP = web.AppKey("checkup", Checkup)
DEVICES = web.AppKey("devices", DeviceMonitor)
KEYRING = web.AppKey("keyring", Keyring)
METRICS = web.AppKey("metrics", Metrics)
OPTIONS = web.AppKey("options", ApiOptions)
