"""`hearth top`: the box as it is now, at a terminal."""

from __future__ import annotations

import argparse
import os
import sys

from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How often to look."""
    parser.add_argument(
        "--every",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="between two looks (default 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Show it until the user leaves, and return the exit status."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "hearth top needs a terminal; hearth status and /api/v1/top are for programs"
        )
    from hearth_tui.colours import dress
    from hearth_tui.top.app import TopApp
    from hearth_tui.top.source import Source

    with open_box(arguments) as box:
        source = Source(box)
        source.top(0)  # a box that is not there, or says no, is told of before the screen is taken
        app = TopApp(source, read_seconds=arguments.every)
        dress(app, os.environ)
        app.run()
    return EXIT_OK


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("must be 0.2 to 3600")
    return seconds
