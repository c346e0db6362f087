"""Where files are by default: for the system's service, and for an ordinary user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "hearthd"


@dataclass(frozen=True, slots=True)
class DefaultPaths:
    """The configuration file to look for, the state directory and the socket."""

    config: Path
    state: Path
    socket: Path


def default_paths(environ: Mapping[str, str], uid: int) -> DefaultPaths:
    """As the environment says; pure. The service manager's directories count before a user's own."""
    if uid == 0 or "STATE_DIRECTORY" in environ:
        return DefaultPaths(
            config=Path(environ.get("CONFIGURATION_DIRECTORY", f"/etc/{NAME}")) / f"{NAME}.toml",
            state=Path(environ.get("STATE_DIRECTORY", f"/var/lib/{NAME}")),
            socket=Path(environ.get("RUNTIME_DIRECTORY", f"/run/{NAME}")) / f"{NAME}.sock",
        )
    home = Path(environ.get("HOME") or "/")
    state = _xdg(environ, "XDG_STATE_HOME", home / ".local/state") / NAME
    runtime = environ.get("XDG_RUNTIME_DIR")
    return DefaultPaths(
        config=_xdg(environ, "XDG_CONFIG_HOME", home / ".config") / NAME / f"{NAME}.toml",
        state=state,
        socket=(Path(runtime) if runtime else state) / f"{NAME}.sock",
    )


def _xdg(environ: Mapping[str, str], name: str, default: Path) -> Path:
    """A base directory; a relative one is to be ignored, as the specification says."""
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else default
