"""`hearth audit`: what operators did to the box, or tried to."""

from __future__ import annotations

import argparse

import msgspec

from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK, NotHearth
from hearth_tui.key_types import ActionList


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many, and how to print them."""
    parser.add_argument("-n", "--limit", type=int, default=20, help="the latest (default: 20)")
    parser.add_argument("--json", action="store_true", help="print what the box answers")


def run(arguments: argparse.Namespace) -> int:
    """Print them, the newest first, and return the exit status."""
    with open_box(arguments) as box:
        params = {"limit": str(arguments.limit)}
        content = box.call("GET", "/api/v1/audit", params=params).content
    if arguments.json:
        print(msgspec.json.format(content).decode())
        return EXIT_OK
    try:
        actions = msgspec.json.decode(content, type=ActionList).actions
    except msgspec.MsgspecError:
        raise NotHearth("the box does not answer like a Hearth box") from None
    from hearth_tui.key_tables import actions_table
    from hearth_tui.tables import make_console

    make_console().print(actions_table(actions))
    return EXIT_OK
