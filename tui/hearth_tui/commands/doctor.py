"""`hearth doctor`: find what is wrong with this machine, with the daemon up or down."""

from __future__ import annotations

import argparse

from hearth_tui import on_this_machine
from hearth_tui.on_this_machine import add_arguments

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Return the exit status of `hearthd doctor`: 1 where something is."""
    return on_this_machine.run("doctor", arguments)
