"""The box's identity on its network: random, made once, kept with its state."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Final

_FILE: Final = "box-id"
_FORM: Final = re.compile(r"[0-9a-f]{8}")


def box_id(state: Path) -> str:
    """Eight hexadecimal digits; raises OSError where they cannot be kept.

    Not the machine's own identity: copies of one disk image share that.
    """
    path = state / _FILE
    try:
        known = path.read_text().strip()
    except FileNotFoundError:
        known = ""
    if _FORM.fullmatch(known):
        return known
    made = secrets.token_hex(4)
    draft = path.with_suffix(".new")
    draft.write_text(made + "\n")
    draft.replace(path)
    return made
