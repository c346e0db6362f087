"""Colours: what a terminal of few of them is shown, and one whose user wants none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.terminal_theme import TerminalTheme
from textual.app import App

OF_TERMINAL: Final = "ansi-dark"
"""The terminal's own 16 colours, on its own background."""
_PALE: Final = (230, 230, 230)


def dress(app: App[Any], environment: Mapping[str, str]) -> None:
    """Have a screen drawn in what its terminal can show, before it runs.

    Shades that are mixed become alike where 16 colours must do. Without colours, textual makes greys of all
    of them, of which those of red would be too dark to be read.
    """
    if environment.get("NO_COLOR"):
        app.ansi_theme_dark = TerminalTheme((0, 0, 0), _PALE, [_PALE] * 8, [_PALE] * 8)
    elif app.console.color_system in (None, "standard", "windows"):
        app.theme = OF_TERMINAL
