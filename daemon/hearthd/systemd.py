"""sd_notify: what the service manager is told, in its own words, and the sockets it hands over."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Mapping

from hearthd.errors import ConfigError

log = logging.getLogger(__name__)

FIRST_FD = 3
"""Of the sockets that a manager hands over (SD_LISTEN_FDS_START)."""
_WORD_LINE = str.maketrans("\r\n", "  ")
"""A status is one line."""


class Notifier:
    """Sends to the manager's socket, in order; does nothing where there is no manager.

    Where the socket is full, what the manager must know waits for the next word; nothing waits in it for long.
    """

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        """`pid` (this process's own): the manager may have meant another one with its watchdog."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._due: deque[str] = deque()  # told as soon as the manager takes it
        self._is_full = False
        self.watchdog_seconds = _watchdog_seconds(environ, os.getpid() if pid is None else pid)

    def extend(self, seconds: float) -> None:
        """Starting or stopping takes at least so much longer; what the manager would have borne still counts."""
        self._keep(f"EXTEND_TIMEOUT_USEC={_usec(seconds)}")

    def ready(self, status: str) -> None:
        """The daemon listens; also the end of a reload."""
        self._keep("READY=1", status)

    def reloading(self, status: str) -> None:
        """The configuration is read again; `ready` ends that."""
        self._keep(f"RELOADING=1\nMONOTONIC_USEC={_usec(time.monotonic())}", status)

    def status(self, status: str) -> None:
        """A line for `systemctl status`."""
        self._keep("", status)

    def alive(self) -> None:
        """Feeds the watchdog, if that can be done now: it would be no sign of life later."""
        self.tell_due()
        if not self._due:
            self._is_taken("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The daemon goes down."""
        self._keep("STOPPING=1", status)

    def tell_due(self) -> None:
        """Tell what the manager has not taken yet, as far as it takes it now."""
        while self._due and self._is_taken(self._due[0]):
            self._due.popleft()

    def _keep(self, word: str, status: str | None = None) -> None:
        """Tell it now or as soon as that is possible; of words of one kind that wait, the last counts."""
        if not self._address:
            return
        if status is not None:
            word = f"{word}\nSTATUS={status.translate(_WORD_LINE)}".lstrip()
        if self._due and _kind(self._due[-1]) == _kind(word):
            self._due.pop()
        self._due.append(word)
        self.tell_due()

    def _is_taken(self, word: str) -> bool:
        """Send; False: there is no room now. What cannot be told at all is as good as taken."""
        if not self._address:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
                notify.sendto(word.encode(), self._address)
        except BlockingIOError:
            if not self._is_full:
                log.warning("the service manager does not listen now; it is told later: %r", word)
            self._is_full = True
            return False
        except OSError as error:
            log.warning("the service manager cannot be told %r: %s", word, error)
        self._is_full = False
        return True


def _kind(word: str) -> str:
    """ "READY", "STATUS"; of a word that says several things, the first."""
    return word.partition("=")[0]


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
