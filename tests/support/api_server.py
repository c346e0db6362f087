"""A real server of the HTTP API in this process, around any Serving."""

from __future__ import annotations

import socket as sockets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import aiohttp
import httpx2
from aiohttp import web
from openai import AsyncOpenAI

from hearthd.access.keyring import Keyring
from hearthd.access.register import Register
from hearthd.access.tls import Tls
from hearthd.api import routes
from hearthd.api.connection import acceptor, listen
from hearthd.api.keys import (
    BATCHES,
    CACHE,
    CHECKUP,
    DEVICES,
    GATE,
    KEYRING,
    METRICS,
    OPTIONS,
    REGISTER,
    SERVING,
    TLS,
    ApiOptions,
    Gate,
)
from hearthd.api.loopback import Loopback
from hearthd.batch.service import Batches
from hearthd.cache.service import ResponseCache
from hearthd.config.schema import TlsConfig
from hearthd.hardware.checkup import Checkup
from hearthd.hardware.monitor import DeviceMonitor
from hearthd.serving.service import Serving
from hearthd.telemetry.metrics import Metrics


class ApiServer:
    """Listens on a free TCP port, and on a Unix socket where a path is given."""

    def __init__(
        self,
        serving: Serving,
        *,
        metrics: Metrics | None = None,
        options: ApiOptions | None = None,
        socket: Path | None = None,
        keyring: Keyring | None = None,
        cache: ResponseCache | None = None,
        devices: DeviceMonitor | None = None,
        register: Register | None = None,
        gate: Gate | None = None,
        tls: Tls | None = None,
        batches: Batches | None = None,
    ) -> None:
        """`register`: has a keyring of its own, which counts; without one, no key can be given out."""
        self.metrics = metrics or Metrics()
        self.url = ""
        self._socket = socket
        self._options = options or ApiOptions()
        self._app = web.Application(client_max_size=self._options.max_body_bytes)
        self._app[SERVING] = serving
        self._app[METRICS] = self.metrics
        self._app[CACHE] = cache or ResponseCache.off(serving)
        self.register = register or Register(Path("/nowhere"), keyring or Keyring())
        self._app[REGISTER] = self.register
        self._app[KEYRING] = self.register.keyring
        self._app[GATE] = gate or Gate()
        self._app[TLS] = self._tls = tls or Tls(TlsConfig(), Path("/nowhere"), "127.0.0.1")
        self._app[OPTIONS] = self._options
        self._batches = batches
        if batches is not None:
            self._app[BATCHES] = batches
        if devices is not None:
            self._app[DEVICES] = devices
            self._app[CHECKUP] = Checkup(devices, Path("/nowhere"))
            self.metrics.watch_devices(lambda: devices.inventory.devices)
        routes.setup(self._app)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        runner = web.AppRunner(self._app, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        if self._batches is not None:
            await self._batches.open()
            self._batches.begin(Loopback(acceptor(runner, self.metrics)))
            self._stack.push_async_callback(self._batches.close)
        listeners = [sockets.create_server(("127.0.0.1", 0))]
        host, port = listeners[0].getsockname()
        tls = self._tls.context
        self.url = f"{'http' if tls is None else 'https'}://{host}:{port}"
        if self._socket is not None:
            listeners.append(sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM))
            listeners[-1].bind(str(self._socket))
        for listener in listeners:
            self._stack.callback((await listen(runner, listener, self.metrics, tls=tls)).close)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def http(self, *, over_socket: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
        """A plain HTTP client whose paths are those of this server."""
        connector = aiohttp.UnixConnector(str(self._socket)) if over_socket else None
        async with aiohttp.ClientSession(self.url, connector=connector) as session:
            yield session

    @asynccontextmanager
    async def openai(self, *, over_socket: bool = False) -> AsyncIterator[AsyncOpenAI]:
        """The official client."""
        transport = httpx2.AsyncHTTPTransport(uds=str(self._socket) if over_socket else None)
        async with (
            httpx2.AsyncClient(transport=transport) as http,
            AsyncOpenAI(
                base_url=f"{self.url}/v1", api_key="none", max_retries=0, http_client=http
            ) as client,
        ):
            yield client
