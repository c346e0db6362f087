"""Listeners: the TCP and the Unix socket, bound or taken over before anything else starts."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
def listen(address: str, path: Path, passed: Sequence[socket.socket] = ()) -> Iterator[Listeners]:
    """Bind what was not `passed` by a service manager; raises ConfigError, AlreadyRunning.

    Closes both at the end, and takes the file of a socket that it has bound away; one that was passed
    stays the manager's.
    """
    with ExitStack() as stack:
        for listener in passed:
            stack.enter_context(listener)
        tcp, unix = _sort(passed)
        if tcp is None:
            tcp = stack.enter_context(_bind_tcp(address))
        if unix is None:
            unix = stack.enter_context(_bind_unix(path))
            stack.enter_context(_file_of(path))
        else:
            path = Path(unix.getsockname())
        yield Listeners(tcp, unix, path)


def _sort(
    passed: Sequence[socket.socket],
) -> tuple[socket.socket | None, socket.socket | None]:
    """The TCP and the Unix socket among those that were passed; raises ConfigError for any other."""
    tcp: socket.socket | None = None
    unix: socket.socket | None = None
    for listener in passed:
        if not _listens(listener):
            raise ConfigError("the service manager handed over a socket that does not listen")
        if listener.family == socket.AF_UNIX and unix is None and listener.getsockname():
            unix = listener
        elif listener.family in (socket.AF_INET, socket.AF_INET6) and tcp is None:
            tcp = listener
        else:
            raise ConfigError(
                "the service manager may hand over one TCP and one Unix socket with a path, not "
                + ", ".join(f"{each.family.name} {each.getsockname()}" for each in passed)
            )
    return tcp, unix


def _listens(passed: socket.socket) -> bool:
    is_stream = passed.type == socket.SOCK_STREAM
    return is_stream and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


@contextmanager
def _file_of(path: Path) -> Iterator[None]:
    """The socket's file goes when the socket does, unless it is that of a successor."""
    inode = path.stat().st_ino
    try:
        yield
    finally:
        if path.exists() and path.stat().st_ino == inode:
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
