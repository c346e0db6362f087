"""argv to a command, and errors to one line and an exit status."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol, cast

from hearth_tui import key
from hearth_tui.errors import (
    EXIT_INTERRUPTED,
    EXIT_OUTPUT_GONE,
    ClientError,
    UsageError,
)

COMMANDS = {
    "ask": "ask a model one question",
    "audit": "list what operators did to the box",
    "batch": "have files of requests answered when nobody else needs the models",
    "cache": "look after the cache of answers",
    "chat": "talk with a model",
    "devices": "list what the box can run models on",
    "discover": "list the boxes on the network",
    "doctor": "find what is wrong with this machine, and what mends it",
    "keys": "give out keys for the box, and take them back",
    "models": "list the models of the box",
    "plan": "say where a model would run on this machine, and how fast",
    "quantize": "write a model in fewer bits, and say how far that is from it",
    "selftest": "test the devices of this machine",
    "simulate": "say what a fleet of boxes would do with a trace of requests",
    "status": "say how the box is doing",
    "top": "watch the box, and look after its models",
}
"""Each is a module of `hearth_tui.commands`, imported only when it is asked for."""

_EPILOG = """\
the box is looked for at --url, --socket, --box, $HEARTH_URL, $HEARTH_SOCKET,
/run/hearthd/hearthd.sock, $XDG_RUNTIME_DIR/hearthd.sock and
http://127.0.0.1:4327, in this order.

exit status: 0 done, 1 refused, 2 wrong usage, 3 no box, 130 interrupted."""


class Command(Protocol):
    """What a module of `hearth_tui.commands` has."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it and return the exit status; raises ClientError."""


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """One line, and where to read more."""
        raise UsageError(f"{message} (see '{self.prog} --help')")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `hearth` with these arguments (None: the process's own) and return its exit status."""
    _never_fail_to_encode()
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except ClientError as error:
        return _complain(str(error), error.exit_status)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return EXIT_OUTPUT_GONE
    except OSError as error:
        _discard_output()
        return _complain(str(error), ClientError.exit_status)
    return status


def _run(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.version:
        from importlib.metadata import version

        print(f"hearth {version('hearthd')}")
        return 0
    if arguments.command is None:
        raise UsageError(f"say what to do: {', '.join(COMMANDS)} (see 'hearth --help')")
    if arguments.command not in COMMANDS:
        raise UsageError(_unknown_command(arguments.command))
    command = cast(Command, import_module(f"hearth_tui.commands.{arguments.command}"))
    parser = _command_parser(arguments.command)
    command.add_arguments(parser)
    where = argparse.Namespace(
        url=arguments.url,
        socket=arguments.socket,
        box=arguments.box,
        api_key_file=arguments.api_key_file,
        fingerprint=arguments.fingerprint,
        ca=arguments.ca,
    )
    # Intermixed, so that options may stand between the words of a prompt; that knows no `--`.
    parse = parser.parse_args if "--" in arguments.rest else parser.parse_intermixed_args
    return command.run(parse(arguments.rest, where))


def _parser() -> Parser:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {does}" for name, does in COMMANDS.items())
    parser = Parser(
        prog="hearth",
        usage="hearth [--url URL | --socket PATH | --box NAME] COMMAND ...",
        description=f"Talk to a Hearth box. Commands (hearth COMMAND --help says more):\n{listed}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    _add_address(parser, default=None)
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _command_parser(name: str) -> Parser:
    parser = Parser(
        prog=f"hearth {name}",
        description=f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_address(parser, default=argparse.SUPPRESS)
    return parser


def _add_address(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument("--url", metavar="URL", default=default, help="the box's address over TCP")
    parser.add_argument(
        "--socket", metavar="PATH", default=default, help="the box's Unix socket on this machine"
    )
    parser.add_argument(
        "--box", metavar="NAME", default=default, help="the box of this name on the network"
    )
    parser.add_argument(
        key.FLAG,
        metavar="FILE",
        default=default,
        help="has the key for the box; so may $HEARTH_API_KEY",
    )
    for flag, metavar, text in (
        ("--fingerprint", "HEX", "of an https:// box's certificate; remembered"),
        ("--ca", "FILE", "certificates that vouch for the box's"),
    ):
        of_command = default == argparse.SUPPRESS  # whose help has better things to say
        parser.add_argument(
            flag, metavar=metavar, default=default, help=argparse.SUPPRESS if of_command else text
        )
    parser.add_argument("--api-key", nargs="?", action=_SeenByAll, help=argparse.SUPPRESS)


class _SeenByAll(argparse.Action):
    """A key among the arguments is one that every user of this machine can read."""

    def __call__(self, *_: object, **__: object) -> None:
        raise UsageError(
            "others on this machine can read a key that stands on the command line: put it into a file "
            f"and say {key.FLAG} FILE, or into ${key.VARIABLE}"
        )


def _unknown_command(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(COMMANDS)}"
    return f"there is no command {name!r}; {hint}"


def _complain(message: str, status: int) -> int:
    from hearth_tui.printable import one_line

    print(f"hearth: {one_line(message)}", file=sys.stderr)
    return status


def _never_fail_to_encode() -> None:
    """A terminal that lacks a character shows a question mark instead."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    """What is still in the buffer would fail again when the interpreter exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
