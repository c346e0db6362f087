"""Commands that are of this machine: `hearthd` does them, with the daemon up or down."""

from __future__ import annotations

import argparse
import subprocess
import sys

from hearth_tui.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `hearthd` takes."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--config", metavar="FILE", help="the daemon's configuration")
    parser.add_argument("--state", metavar="DIR", help="where the daemon keeps what it knows")


def run(word: str, arguments: argparse.Namespace) -> int:
    """Run `hearthd` with a word, and return its exit status; raises UsageError."""
    if arguments.url is not None or arguments.socket is not None:
        raise UsageError(f"{word} is of this machine: it takes neither --url nor --socket")
    command = [sys.executable, "-P", "-m", "hearthd", word]
    command += ["--json"] if arguments.json else []
    for name in ("config", "state"):
        value = getattr(arguments, name)
        command += [] if value is None else [f"--{name}", value]
    return subprocess.run(command, check=False).returncode
