"""`hearth quantize`: a model in fewer bits, on this machine, with the daemon up or down."""

from __future__ import annotations

import argparse
import subprocess
import sys

from hearth_tui.errors import UsageError

_VALUES = {
    "to": "KIND",
    "out": "DIR",
    "group": "N",
    "method": "NAME",
    "calibration": "TEXT",
    "report": "TEXT",
    "kinds": "A,B",
    "backend": "NAME",
    "device": "NAME",
    "threads": "N",
}
_SWITCHES = ("force", "asymmetric", "no-report", "compare", "json")
_HELP = {
    "to": "int4 (4 bits in groups), int8 or fp8 (8 bits, one scale for each output)",
    "out": "the folder to be made, a checkpoint that every backend reads",
    "group": "of int4: 128, 64 or 32 inputs share a scale",
    "method": "of int4: gptq (errors make up for each other on a text) or nearest; default: gptq where it can be",
    "calibration": "that gptq reads (default: a text that comes along)",
    "report": "compare with the original on this text (default: one that comes along)",
    "backend": "that computes what is compared (default: onnx)",
    "device": "where (default: cpu:0)",
    "threads": "default: the physical cores",
    "force": "replace DIR where it is a checkpoint's folder",
    "asymmetric": "of int4: with a zero point for each group",
    "kinds": "with --compare: only these kinds; none: only --against",
    "no-report": "do not compare what was made",
    "compare": "compare every kind of weights that the backend makes of the model itself",
    "json": "print lines of JSON",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `hearthd quantize` takes."""
    parser.add_argument(
        "model", metavar="MODEL", help="a GGUF file, a checkpoint's folder, or canary"
    )
    for name, value in _VALUES.items():
        flags = ("-o", "--out") if name == "out" else (f"--{name}",)
        parser.add_argument(*flags, metavar=value, help=_HELP[name])
    for name in _SWITCHES:
        parser.add_argument(f"--{name}", action="store_true", help=_HELP[name])
    parser.add_argument(
        "--against", metavar="FILE", action="append", default=[],
        help="with --compare: another file of the same model; may be repeated",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Run `hearthd` with the same words, and return its exit status."""
    if arguments.url is not None or arguments.socket is not None:
        raise UsageError("quantize is of this machine: it takes neither --url nor --socket")
    command = [sys.executable, "-P", "-m", "hearthd", "quantize", arguments.model]
    for name in _VALUES:
        value = getattr(arguments, name)
        command += [] if value is None else [f"--{name}", value]
    for name in _SWITCHES:
        command += [f"--{name}"] if getattr(arguments, name.replace("-", "_")) else []
    for path in arguments.against:
        command += ["--against", path]
    with subprocess.Popen(command) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue  # it was told as well, and cleans up
