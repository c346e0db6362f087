"""sd_notify: what the service manager is told, in its own words, and the sockets it hands over."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from hearthd.errors import ConfigError

log = logging.getLogger(__name__)

FIRST_FD = 3
"""Of the sockets that a manager hands over (SD_LISTEN_FDS_START)."""
_WORD_LINE = str.maketrans("\r\n", "  ")
"""A status is one line."""


class Notifier:
    """Sends to the manager's socket; does nothing where there is no manager."""

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        """`pid` (this process's own): the manager may have meant another one with its watchdog."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_seconds = _watchdog_seconds(environ, os.getpid() if pid is None else pid)

    def extend(self, seconds: float) -> None:
        """Starting or stopping takes at least so much longer; what the manager would have borne still counts."""
        self._send(f"EXTEND_TIMEOUT_USEC={_usec(seconds)}")

    def ready(self, status: str) -> None:
        """The daemon listens; also the end of a reload."""
        self._send("READY=1", status)

    def reloading(self, status: str) -> None:
        """The configuration is read again; `ready` ends that."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={_usec(time.monotonic())}", status)

    def status(self, status: str) -> None:
        """A line for `systemctl status`."""
        self._send("", status)

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The daemon goes down."""
        self._send("STOPPING=1", status)

    def _send(self, state: str, status: str | None = None) -> None:
        if not self._address:
            return
        if status is not None:
            state = f"{state}\nSTATUS={status.translate(_WORD_LINE)}".lstrip()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
                notify.sendto(state.encode(), self._address)
        except OSError as error:
            log.warning("the service manager cannot be told %r: %s", state, error)


def take_passed_sockets(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """The listening sockets that a manager has handed to this process; raises ConfigError.

    Call it once: the caller owns them from then on.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return []
    n_sockets = environ.get("LISTEN_FDS", "0")
    if not n_sockets.isdecimal():
        raise ConfigError(f"LISTEN_FDS is {n_sockets!r}, not a number")
    taken: list[socket.socket] = []
    for fd in range(FIRST_FD, FIRST_FD + int(n_sockets)):
        try:
            os.set_inheritable(fd, False)  # engines are not to have them
            taken.append(socket.socket(fileno=fd))
        except OSError as error:
            for passed in taken:
                passed.close()
            raise ConfigError(
                f"file descriptor {fd} was handed over, but is no socket: {error}"
            ) from None
    return taken


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    """How often the manager wants to hear that all is well; None: it does not watch this process."""
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid) or not usec.isdecimal() or usec == "0":
        return None
    return int(usec) / 1e6


def _usec(seconds: float) -> int:
    return round(seconds * 1e6)
