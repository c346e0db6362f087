"""`hearth status`: whether the box is ready, and how busy."""

from __future__ import annotations

import argparse

import msgspec

from hearth_tui import figures
from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK
from hearth_tui.printable import one_line
from hearth_tui.types import Model, Readiness


class Status(msgspec.Struct, frozen=True):
    """How a box is; this is also what `--json` prints."""

    box: str
    version: str
    ready: bool
    models: list[Model]
    tls: str | None = None  # fingerprint of its certificate; None: it speaks none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How to print it."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the status and return the exit status: 0 for a box that answers, ready or not."""
    with open_box(arguments) as box:
        readiness = box.readiness()
        models = [model for model in box.models() if model.parent is None]
        about = box.about()
    fingerprint = None if about.tls is None else about.tls.fingerprint
    status = Status(str(box.address), about.version, readiness.ready, models, fingerprint)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(status)).decode())
    else:
        _print(status, readiness)
    return EXIT_OK


def describe_readiness(readiness: Readiness) -> str:
    """Yes, or no and what keeps the box from being so."""
    if readiness.ready:
        return "yes"
    if readiness.draining:
        return "no (shutting down)"
    late = [f"{m.name} {figures.state(m)}" for m in readiness.models if m.state != "ready"]
    return f"no ({', '.join(late)})" if late else "no"


def _print(status: Status, readiness: Readiness) -> None:
    from hearth_tui.tables import failures, load_table, make_console, plans

    console = make_console()
    console.print(f"box      {one_line(status.box)}")
    console.print(f"version  {one_line(status.version)}")
    if status.tls is not None:
        console.print(f"tls      {one_line(status.tls)}")
    console.print(f"ready    {one_line(describe_readiness(readiness))}")
    if status.models:
        console.print()
        console.print(load_table(status.models))
    for line in (*plans(status.models), *failures(status.models)):
        console.print(line)
