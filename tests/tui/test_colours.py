"""A terminal of 16 colours gets its own; one without any gets greys that can be read."""

from __future__ import annotations

import pytest
from rich.color import Color
from rich.console import Console
from textual.app import App

from hearth_tui.colours import OF_TERMINAL, dress


def dressed(color_system: str, **environment: str) -> App[None]:
    app: App[None] = App()
    app.console = Console(color_system=color_system, force_terminal=True)  # type: ignore[arg-type]  # one of the words that rich knows
    dress(app, environment)
    return app


@pytest.mark.parametrize(
    ("color_system", "is_own"), [("standard", True), ("256", False), ("truecolor", False)]
)
def test_few_colours_are_the_terminals_own(color_system: str, is_own: bool) -> None:
    assert (dressed(color_system).theme == OF_TERMINAL) == is_own


def test_no_colour_is_too_dark_without_colours() -> None:
    app = dressed("truecolor", NO_COLOR="1")
    shown = {
        Color.parse(name).get_truecolor(app.ansi_theme_dark)
        for name in ("red", "bright_red", "green")
    }
    assert {min(colour) for colour in shown} == {230}
