"""`hearth models`: what the box serves."""

from __future__ import annotations

import argparse
import sys

import msgspec

from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK
from hearth_tui.types import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to print them."""
    parser.add_argument("--json", action="store_true", help="print the entries of /v1/models")


def run(arguments: argparse.Namespace) -> int:
    """List the models and return the exit status."""
    with open_box(arguments) as box:
        models = box.models()
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(models)).decode())
    else:
        print_models(models)
    return EXIT_OK


def print_models(models: list[Model]) -> None:
    """The table, and below it who guesses for whom and what is wrong with whom."""
    from hearth_tui.tables import drafts, failures, make_console, models_table

    if not models:
        print("the box has no models", file=sys.stderr)
        return
    console = make_console()
    console.print(models_table(models))
    for line in (*drafts(models), *failures(models)):
        console.print(line)
