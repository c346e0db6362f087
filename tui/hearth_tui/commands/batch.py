"""`hearth batch`: have files of requests answered when nobody else needs the models."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from hearth_tui import batch_box
from hearth_tui.batch_run import errors_beside, fetch, find_or_begin, follow, read_input
from hearth_tui.batch_types import Batch
from hearth_tui.client import Client
from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK, BoxUnreachable, UsageError

_EXIT_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which batch."""
    parser.add_argument("action", choices=_ACTIONS, help="what to do")
    parser.add_argument(
        "what", nargs="?", metavar="FILE|BATCH", help="of run: a file of requests; else: an id"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="of run: where the answers go")
    parser.add_argument(
        "--errors", metavar="FILE", help="of run: where errors go (default: OUTPUT.errors.jsonl)"
    )
    parser.add_argument(
        "--endpoint", metavar="PATH", help="of run (default: the url of the first request)"
    )
    parser.add_argument(
        "--window", default="24h", help="of run: how long it may take (default: 24h)"
    )
    parser.add_argument(
        "--new", action="store_true", help="of run: again, though the file was run before"
    )
    parser.add_argument(
        "--cancel-on-interrupt", action="store_true", help="of run: Ctrl-C ends the batch too"
    )
    parser.add_argument("-n", "--limit", type=int, default=20, help="of ls (default: 20)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do it and return the exit status."""
    with open_box(arguments) as box:
        return _ACTIONS[arguments.action](box, arguments)


def _run(box: Client, arguments: argparse.Namespace) -> int:
    """Exit status 0: every line was answered; 1: some were not, or it ended before."""
    from hearth_tui.batch_screen import ProgressView

    if arguments.output is None:
        raise UsageError("say where the answers go: -o FILE")
    asked = read_input(Path(_what(arguments, "a FILE of requests")), arguments.endpoint)
    output = Path(arguments.output)
    errors = errors_beside(output) if arguments.errors is None else Path(arguments.errors)
    batch, known = find_or_begin(box, asked, arguments.window, anew=arguments.new)
    if known:
        more = "; --new runs it again" if batch.is_over else ""
        _tell(f"{asked.path.name} is {batch.id} already{more}")
    try:
        with ProgressView() as view:
            batch = follow(box, batch, view.show)
    except KeyboardInterrupt:
        _leave(box, batch, cancel=arguments.cancel_on_interrupt)
        raise
    except BoxUnreachable as error:
        raise BoxUnreachable(f"{error}; the same command takes {batch.id} up again") from error
    written = fetch(box, batch, output, errors)
    if arguments.json:
        _print_json(batch_box.get_json(box, batch.id))
    counts = batch.request_counts
    _tell(
        f"{batch.status}: {counts.completed} answered, {counts.failed} failed"
        + "".join(f"; {path}" for path in written)
    )
    for why in batch.errors.data if batch.errors is not None else []:
        _tell(why.message)
    good = batch.status == "completed" and counts.failed == 0
    return EXIT_OK if good else _EXIT_FAILED


def _leave(box: Client, batch: Batch, *, cancel: bool) -> None:
    if cancel:
        batch_box.cancel(box, batch.id)
        _tell(f"{batch.id} is cancelled; 'hearth batch show {batch.id}' says what it has")
        return
    _tell(
        f"{batch.id} goes on; the same command takes it up again, "
        f"'hearth batch cancel {batch.id}' ends it"
    )


def _ls(box: Client, arguments: argparse.Namespace) -> int:
    from hearth_tui.batch_screen import batches_table
    from hearth_tui.tables import make_console

    batches = list(batch_box.listed(box, arguments.limit))
    if arguments.json:
        _print_json(msgspec.json.encode(batches))
    elif batches:
        make_console().print(batches_table(batches, time.time()))
    else:
        print("no batches", file=sys.stderr)
    return EXIT_OK


def _show(box: Client, arguments: argparse.Namespace) -> int:
    content = batch_box.get_json(box, _what(arguments, "a BATCH (see ls)"))
    _print_one(content, as_json=arguments.json)
    return EXIT_OK


def _cancel(box: Client, arguments: argparse.Namespace) -> int:
    batch = batch_box.cancel(box, _what(arguments, "a BATCH (see ls)"))
    if arguments.json:
        _print_json(batch_box.get_json(box, batch.id))
    else:
        print(f"{batch.id} {batch.status}")
    return EXIT_OK


_ACTIONS: Mapping[str, Callable[[Client, argparse.Namespace], int]] = {
    "run": _run,
    "ls": _ls,
    "show": _show,
    "cancel": _cancel,
}


# --- parts -------------------------------------------------------------------------------------


def _what(arguments: argparse.Namespace, missing: str) -> str:
    if arguments.what is None:
        raise UsageError(f"say which: {missing}")
    what: str = arguments.what
    return what


def _print_one(content: bytes, *, as_json: bool) -> None:
    from hearth_tui.batch_screen import batch_lines

    if as_json:
        _print_json(content)
        return
    for line in batch_lines(batch_box.read(content, Batch)):
        print(line)


def _print_json(content: bytes) -> None:
    print(msgspec.json.format(content).decode())


def _tell(text: str) -> None:
    print(f"hearth: {text}", file=sys.stderr)
