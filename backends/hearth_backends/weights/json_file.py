"""JSON files beside weights: read whole, of the kind that is expected, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from hearth_backends.errors import ModelFileError

Kind = TypeVar("Kind", dict[str, Any], list[Any])


def read_table(path: Path) -> dict[str, Any]:
    """A file that holds a table; raises ModelFileError, naming it."""
    return _read(path, dict, "table")


def read_list(path: Path) -> list[Any]:
    """A file that holds a list; raises ModelFileError, naming it."""
    return _read(path, list, "list")


def _read(path: Path, kind: type[Kind], name: str) -> Kind:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: it cannot be read: {error}") from error
    if not isinstance(values, kind):
        raise ModelFileError(f"{path}: it is no {name}")
    return values
