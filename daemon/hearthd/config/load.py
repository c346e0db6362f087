"""Load: command line and files to a Config, and where each of its values came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from hearthd.config.parse import dotted, parse
from hearthd.config.paths import default_paths
from hearthd.config.schema import Config
from hearthd.config.sources import (
    Key,
    Layer,
    merge,
    read_files,
    read_flag,
    read_model_flag,
    read_setting,
)


@dataclass(frozen=True, slots=True)
class Flags:
    """What the command line may say of the configuration."""

    config: str | None = None
    models: Sequence[str] = ()
    listen: str | None = None
    socket: str | None = None
    state: str | None = None
    settings: Sequence[str] = ()
    base: Path = field(default_factory=Path.cwd)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and the values it was made of."""

    config: Config
    values: Layer


class Row(NamedTuple):
    """One value of the configuration, for people."""

    key: str
    value: str
    source: str


def load(flags: Flags, environ: Mapping[str, str], uid: int) -> Loaded:
    """Read everything, later sources winning: files, conf.d, --set, flags. Raises ConfigError."""
    defaults = default_paths(environ, uid)
    layers: list[Layer] = []
    if flags.config is not None:
        layers += read_files(flags.base / Path(flags.config).expanduser())
    elif defaults.config.is_file():
        layers += read_files(defaults.config)
    layers += [read_setting(text, flags.base) for text in flags.settings]
    layers += [read_model_flag(text, flags.base) for text in flags.models]
    for name in ("listen", "socket", "state"):
        text: str | None = getattr(flags, name)
        if text is not None:
            layers.append(read_flag(f"--{name}", (name,), text, flags.base))
    values = merge(layers)
    return Loaded(parse(values, defaults), values)


def explain(loaded: Loaded) -> list[Row]:
    """Every key with its value and where that was written."""
    tree = msgspec.to_builtins(loaded.config)
    return [
        Row(dotted(key), msgspec.json.encode(value).decode(), _source_of(key, loaded.values))
        for key, value in _leaves(tree, ())
    ]


def _leaves(tree: Mapping[str, Any], prefix: Key) -> Iterator[tuple[Key, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def _source_of(key: Key, values: Layer) -> str:
    return str(values[key].source) if key in values else "default"
