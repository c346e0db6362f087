"""Sources: files, `--set` and flags as layers of values that each know where they came from."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hearthd.errors import ConfigError

Key: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value was written; `base` is what its relative paths are relative to."""

    name: str  # a file, "--set", "--listen"
    base: Path
    line: int | None = None

    def __str__(self) -> str:
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Value:
    """One value and where it was written."""

    value: Any
    source: Source


Layer: TypeAlias = dict[Key, Value]
"""Values by full key; a table is the keys below it, a list is one value."""


def merge(layers: Sequence[Layer]) -> Layer:
    """One layer, in which later ones win; a value replaces a whole table of that name, and a table a value."""
    merged: Layer = {}
    for layer in layers:
        for key, value in layer.items():
            for old in [old for old in merged if _covers(key, old) or _covers(old, key)]:
                del merged[old]
            merged[key] = value
    return merged


def read_file(path: Path) -> Layer:
    """The values of a TOML file; raises ConfigError for one that cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    lines = _lines_of(text)
    base = path.resolve().parent
    return {
        key: Value(value, Source(str(path), base, lines.get(key))) for key, value in _flatten(tree)
    }


def read_files(path: Path) -> list[Layer]:
    """A configuration file and `conf.d/*.toml` beside it, in the order of their names."""
    return [read_file(path), *map(read_file, sorted((path.parent / "conf.d").glob("*.toml")))]


def read_setting(text: str, base: Path) -> Layer:
    """The layer of `--set key=value`: a TOML value, or else plain text; raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: it must look like key=value")
    try:
        tree = tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        try:
            tree = tomllib.loads(f"{key} = {json.dumps(value.strip())}")
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"--set {text}: {error}") from error
    source = Source("--set", base)
    return {path: Value(found, source) for path, found in _flatten(tree)}


def read_flag(flag: str, key: Key, value: str, base: Path) -> Layer:
    """The layer of one flag of the command line."""
    return {key: Value(value, Source(flag, base))}


def read_model_flag(text: str, base: Path) -> Layer:
    """The layer of `--model NAME=PATH`; raises ConfigError."""
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise ConfigError(f"--model {text}: it must look like NAME=PATH")
    return read_flag("--model", ("models", name, "path"), path, base)


def _flatten(tree: Mapping[str, Any], prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def _covers(key: Key, other: Key) -> bool:
    return other[: len(key)] == key


_HEADER = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$")
_ENTRY = re.compile(
    r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*="""
)


def _lines_of(text: str) -> dict[Key, int]:
    """The line on which each key stands, for messages; best effort (a multi-line text may fool it)."""
    lines: dict[Key, int] = {}
    section: Key = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            section = _split(header[1])
        elif entry := _ENTRY.match(line):
            lines[section + _split(entry[1])] = number
    return lines


def _split(dotted: str) -> Key:
    parts: list[str] = re.findall(r"""[\w-]+|"[^"]*"|'[^']*'""", dotted)
    return tuple(part.strip("\"'") for part in parts)
