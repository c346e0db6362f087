"""Listeners: the TCP and the Unix socket, bound before anything else starts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hearthd.config.parse import split_address
from hearthd.errors import AlreadyRunning, ConfigError

BACKLOG = 512
SOCKET_MODE = 0o660


@dataclass(frozen=True, slots=True)
class Listeners:
    """Two bound, listening sockets."""

    tcp: socket.socket
    unix: socket.socket
    path: Path

    @property
    def address(self) -> str:
        """HOST:PORT as bound; the port is the real one where 0 was asked for."""
        host, port = self.tcp.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def listen(address: str, path: Path) -> Iterator[Listeners]:
    """Bind both, and take the socket's file away at the end; raises ConfigError, AlreadyRunning."""
    with _bind_tcp(address) as tcp, _bind_unix(path) as unix:
        inode = path.stat().st_ino
        try:
            yield Listeners(tcp, unix, path)
        finally:
            if path.exists() and path.stat().st_ino == inode:  # not that of a successor
                path.unlink()


def _bind_tcp(address: str) -> socket.socket:
    host, port = split_address(address)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"listen = {address!r}: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AlreadyRunning(f"something listens on {address} already") from error
        raise ConfigError(f"listen = {address!r}: {error.strerror or error}") from error
    return listener


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path.is_socket():
            _remove_stale(path)
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"socket = {str(path)!r}: {error.strerror or error}") from error
    except AlreadyRunning:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Take away a socket that nobody listens on; raises AlreadyRunning where somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except TimeoutError:  # a full backlog: somebody is there
            pass
    raise AlreadyRunning(f"another hearthd listens on {path}")
