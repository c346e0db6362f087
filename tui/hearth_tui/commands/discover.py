"""`hearth discover`: the boxes on the network."""

from __future__ import annotations

import argparse
import sys

import msgspec

from hearth_tui.discovery import LISTEN_SECONDS, FoundBox, discover
from hearth_tui.errors import EXIT_OK, UsageError
from hearth_tui.printable import one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How long, and how to print them."""
    parser.add_argument(
        "--seconds",
        type=float,
        default=LISTEN_SECONDS,
        help=f"how long to listen (default {LISTEN_SECONDS:g})",
    )
    parser.add_argument("--json", action="store_true", help="print what was heard, whole")


def run(arguments: argparse.Namespace) -> int:
    """List the boxes and return the exit status."""
    if not 0 < arguments.seconds <= 3600:
        raise UsageError("--seconds is more than 0, and an hour at most")
    boxes = discover(arguments.seconds)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(boxes), indent=2).decode())
    elif boxes:
        _print(boxes)
    else:
        print("no box is announced on this network", file=sys.stderr)
    return EXIT_OK


def _print(boxes: list[FoundBox]) -> None:
    from rich.table import Table

    from hearth_tui.tables import make_console

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("NAME", "ADDRESS", "KEY", "VERSION", "MODELS"):
        table.add_column(heading)
    for box in boxes:
        key = {True: "needed", False: "none", None: "?"}[box.needs_key]
        more = (box.n_models or 0) - len(box.models)
        models = [*box.models, *([f"and {more} more"] if more > 0 else [])]
        row = (box.name, box.url, key, box.version or "?", ", ".join(models))
        table.add_row(*map(one_line, row))
    make_console().print(table)
