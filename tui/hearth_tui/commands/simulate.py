"""`hearth simulate`: what a fleet that is not here would do; computed on this machine."""

from __future__ import annotations

import argparse
import subprocess
import sys

from hearth_tui.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `hearthd simulate` takes."""
    parser.add_argument("fleet", metavar="FLEET", help="boxes and model (docs/scale.md)")
    parser.add_argument("trace", metavar="TRACE", help="requests, a JSON object a line")
    parser.add_argument("--seed", metavar="N", default="0", help="of the jitter")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Run `hearthd simulate` with the same words, and return its exit status."""
    if arguments.url is not None or arguments.socket is not None:
        raise UsageError("simulate is of this machine: it takes neither --url nor --socket")
    command = [sys.executable, "-P", "-m", "hearthd", "simulate", arguments.fleet, arguments.trace]
    command += ["--seed", arguments.seed, *(["--json"] if arguments.json else [])]
    return subprocess.run(command, check=False).returncode
