"""`hearth plan`: where a model would run on this machine, with the daemon up or down."""

from __future__ import annotations

import argparse
import subprocess
import sys

from hearth_tui.errors import UsageError

_VALUES = {
    "context": ("N", "tokens of one sequence (default: what fits)"),
    "concurrency": ("N", "sequences at once (default: as configured, or 16)"),
    "prompt-tokens": ("N", "of the prompt whose first token is timed (default: 512)"),
    "objective": (
        "NAME",
        "latency, throughput, or memory: as latency, and from the disk what has no room",
    ),
    "output": ("FILE", "write the plan there, for models.NAME.plan"),
    "config": ("FILE", "the daemon's configuration"),
    "state": ("DIR", "where the daemon keeps what it knows"),
}
_REPEATED = {
    "require": ("WORD", "a device, kind or vendor: use nothing else"),
    "prefer": ("WORD", "use nothing else where it suffices"),
    "avoid": ("WORD", "use only where nothing else suffices"),
    "what-if": ("TEXT", "'add cuda:24GiB@900GB/s' or 'remove cpu:0'"),
}
_SWITCHES = {
    "groups": "let equal GPUs compute each layer together",
    "json": "print one JSON object",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `hearthd plan` takes."""
    parser.add_argument("model", metavar="MODEL", help="a configured name, a file, or canary")
    for name, (value, does) in _VALUES.items():
        parser.add_argument(f"--{name}", metavar=value, help=does)
    for name, (value, does) in _REPEATED.items():
        parser.add_argument(
            f"--{name}", metavar=value, action="append", default=[], help=f"{does}; may be repeated"
        )
    for name, does in _SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", help=does)


def run(arguments: argparse.Namespace) -> int:
    """Run `hearthd plan` with the same words, and return its exit status: 1 where the model would not fit."""
    if arguments.url is not None or arguments.socket is not None:
        raise UsageError("plan is of this machine: it takes neither --url nor --socket")
    command = [sys.executable, "-P", "-m", "hearthd", "plan", arguments.model]
    given = vars(arguments)
    for name in _VALUES:
        value = given[name.replace("-", "_")]
        command += [] if value is None else [f"--{name}", value]
    for name in _REPEATED:
        for value in given[name.replace("-", "_")]:
            command += [f"--{name}", value]
    command += [f"--{name}" for name in _SWITCHES if given[name]]
    return subprocess.run(command, check=False).returncode
