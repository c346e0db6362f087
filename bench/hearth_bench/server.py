"""Servers under measurement: started by a command line, waited for, ended by their process id."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from hearth_bench.endpoint import Endpoint, EndpointError

READY_PATHS = ("/readyz", "/health", "/v1/models")
"""Where servers say that they answer: hearthd, llama-server and vLLM, anybody."""
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
_LOG_TAIL = 2000


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection(endpoint: Endpoint, timeout_seconds: float = 5.0) -> http.client.HTTPConnection:
    """A plain blocking connection, not opened yet; for probes between measurements."""
    if endpoint.socket is not None:
        return _UnixConnection(endpoint.socket, timeout_seconds)
    parts = urlsplit(endpoint.root)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.netloc, timeout=timeout_seconds)


def get(endpoint: Endpoint, path: str, timeout_seconds: float = 5.0) -> tuple[int, bytes] | None:
    """Status and body of one request, or None where nobody answers."""
    link = connection(endpoint, timeout_seconds)
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    try:
        link.request("GET", path, headers=headers)
        answer = link.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        link.close()


def is_ready(endpoint: Endpoint, ready_path: str | None = None) -> bool:
    """Whether it says that it answers, on the first of the known paths that it has."""
    for path in [ready_path] if ready_path else READY_PATHS:
        answer = get(endpoint, path)
        if answer is None:
            return False
        if answer[0] != 404:
            return answer[0] == 200
    return False


class Server:
    """One process; `pid` is its own, its children are in its process group."""

    def __init__(self, command: str, log: Path, environment: dict[str, str] | None = None) -> None:
        """Start it; raises OSError where the program is not there."""
        self._log_path = log
        self.started_seconds = time.perf_counter()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | (environment or {}),
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Raise EndpointError, with the end of its log, if it has exited."""
        status = self._process.poll()
        if status is not None:
            tail = self._log_path.read_text(errors="replace")[-_LOG_TAIL:]
            raise EndpointError(f"the server exited with status {status}:\n{tail}")

    def wait_ready(self, endpoint: Endpoint, ready_path: str | None, seconds: float) -> None:
        """Wait until it answers; raises EndpointError if it exits or takes too long."""
        until = time.perf_counter() + seconds
        while not is_ready(endpoint, ready_path):
            self.check()
            if time.perf_counter() > until:
                raise EndpointError(f"{endpoint.name} was not ready after {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)
        self.check()  # another server may answer at the same address

    def stop(self) -> None:
        """Ask it to end, wait, then kill its process group."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()


@contextmanager
def running(
    command: str,
    endpoint: Endpoint,
    log: Path,
    *,
    ready_path: str | None = None,
    ready_seconds: float = 300.0,
) -> Iterator[Server]:
    """A server that answers, ended on the way out; raises EndpointError where it does not come up.

    The address must be free before: a stranger there would be measured in its place.
    """
    if get(endpoint, "/") is not None:
        raise EndpointError(f"somebody already answers at {endpoint.name}")
    server = Server(command, log)
    try:
        server.wait_ready(endpoint, ready_path, ready_seconds)
        yield server
    finally:
        server.stop()
