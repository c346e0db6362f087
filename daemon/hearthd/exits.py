"""Exits: what hearthd's exit statuses mean, and how an error becomes a line and one of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from hearthd.errors import ConfigError, HearthError

EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2
EXIT_INTERRUPTED: Final = 130
"""Ctrl-C, as shells count it."""


def told(action: Callable[[], int]) -> int:
    """The action's exit status; where it raises a HearthError, a line on standard error and the status for it."""
    try:
        return action()
    except HearthError as error:
        sys.stderr.write(f"hearthd: {error.message}\n")
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
