"""Where the box is: flags, then the environment, then the sockets there are, then loopback."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hearth_tui.errors import UsageError

SYSTEM_SOCKET = Path("/run/hearthd/hearthd.sock")
SOCKET_NAME = "hearthd.sock"
DEFAULT_URL = "http://127.0.0.1:4327"


@dataclass(frozen=True, slots=True)
class Address:
    """A base URL without a slash at its end, and the Unix socket to reach it by (None: TCP)."""

    url: str
    socket: Path | None = None

    def __str__(self) -> str:
        return self.url if self.socket is None else f"unix:{self.socket}"


def is_socket(path: Path) -> bool:
    """Whether a Unix socket is there for us to use."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode) and os.access(path, os.W_OK)
    except OSError:
        return False


def find_address(
    url: str | None,
    socket: str | None,
    environment: Mapping[str, str],
    exists: Callable[[Path], bool] = is_socket,
) -> Address:
    """The address to talk to; raises UsageError for a URL that is none."""
    if url:
        return Address(parse_url(url))
    if socket:
        return _over(Path(socket))
    if from_environment := environment.get("HEARTH_URL"):
        return Address(parse_url(from_environment))
    if path := environment.get("HEARTH_SOCKET"):
        return _over(Path(path))
    for candidate in _sockets(environment):
        if exists(candidate):
            return _over(candidate)
    return Address(DEFAULT_URL)


def parse_url(text: str) -> str:
    """A base URL as `Address` wants it: `host:port` is http, and an OpenAI client's `/v1` is taken off."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port  # raises ValueError for what is no port
    except ValueError as error:
        raise UsageError(f"{text!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError(f"{text!r} is not an http:// or https:// URL of a box")
    if parts.query or parts.fragment or any(c.isspace() for c in url):
        raise UsageError(f"{text!r} is not the URL of a box: only host, port and path belong in it")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _sockets(environment: Mapping[str, str]) -> list[Path]:
    """Where a daemon of the system, and one of this user, puts its socket."""
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        return [SYSTEM_SOCKET, Path(runtime) / SOCKET_NAME]
    state = environment.get("XDG_STATE_HOME")
    home = environment.get("HOME")
    if not state and not home:
        return [SYSTEM_SOCKET]
    folder = Path(state) if state else Path(home or "") / ".local" / "state"
    return [SYSTEM_SOCKET, folder / "hearthd" / SOCKET_NAME]


def _over(path: Path) -> Address:
    return Address("http://localhost", path)
