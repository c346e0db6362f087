"""The key that a box asks for: from a file or the environment, never from the command line, which others can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hearth_tui.errors import UsageError

VARIABLE = "HEARTH_API_KEY"
FLAG = "--api-key-file"


def find_key(file: str | None, environment: Mapping[str, str]) -> str | None:
    """The key to send, None where there is none; raises UsageError for a file or a key that is no good."""
    if file is not None:
        return _checked(_read(Path(file)), file)
    key = environment.get(VARIABLE, "").strip()
    return _checked(key, VARIABLE) if key else None


def _read(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} has no key in it: it is no text") from None


def _checked(key: str, where: str) -> str:
    """The key; what is wrong with it is said without repeating it."""
    if not key:
        raise UsageError(f"{where} has no key in it")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{where} has no key in it: a key is one word of plain characters")
    return key
