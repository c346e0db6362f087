"""`hearth cache`: what a box has answered before, and would answer again without computing it."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from hearth_tui.cache_types import AnswerList, Audit, CachedAnswer, Dropped, Imported, Summary
from hearth_tui.cache_warming import warm_requests
from hearth_tui.client import Client
from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK, BoxError, NotHearth, UsageError
from hearth_tui.selection import select_model

T = TypeVar("T")

_ANSWERS = "/api/v1/cache/answers"
_PIECE_BYTES = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which answers."""
    parser.add_argument("action", choices=_ACTIONS, help="what to do")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="of export, import, warm and audit; - is a pipe"
    )
    parser.add_argument("-m", "--model", help="only its answers; of warm: who answers")
    parser.add_argument("--key", metavar="HEX", help="only answers whose key begins so (see ls)")
    parser.add_argument("--all", action="store_true", help="with drop: every answer")
    parser.add_argument(
        "--order", choices=("recent", "hits", "saved"), default="hits", help="of ls (default: hits)"
    )
    parser.add_argument("-n", "--limit", type=int, default=20, help="of ls (default: 20)")
    parser.add_argument("--json", action="store_true", help="print JSON: stats, ls, audit")


def run(arguments: argparse.Namespace) -> int:
    """Do it and return the exit status."""
    with open_box(arguments) as box:
        return _ACTIONS[arguments.action](box, arguments)


def _stats(box: Client, arguments: argparse.Namespace) -> int:
    from hearth_tui.cache_tables import summary_lines, summary_table
    from hearth_tui.tables import make_console

    content = box.call("GET", "/api/v1/cache").content
    if arguments.json:
        print(msgspec.json.format(content).decode())
        return EXIT_OK
    summary = _read(content, Summary)
    console = make_console()
    for line in summary_lines(summary):
        console.print(line)
    if summary.scopes:
        console.print(summary_table(summary))
    return EXIT_OK


def _ls(box: Client, arguments: argparse.Namespace) -> int:
    from hearth_tui.cache_tables import answers_table
    from hearth_tui.tables import make_console

    answers = _listed(box, arguments)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(answers)).decode())
    elif answers:
        make_console().print(answers_table(answers, time.time()))
    else:
        print(
            "no answers" if arguments.order == "recent" else "no answer had a hit", file=sys.stderr
        )
    return EXIT_OK


def _listed(box: Client, arguments: argparse.Namespace) -> list[CachedAnswer]:
    params = {"order": arguments.order, "limit": str(arguments.limit), **_which(arguments)}
    return _read(box.call("GET", _ANSWERS, params=params).content, AnswerList).answers


def _drop(box: Client, arguments: argparse.Namespace) -> int:
    which = _which(arguments)
    if not which and not arguments.all:
        raise UsageError("say which answers: --model, --key or --all")
    params = which or {"all": "true"}
    response = box.call("DELETE", _ANSWERS, params=params, patience_seconds=None)
    print(f"{_read(response.content, Dropped).dropped} dropped")
    return EXIT_OK


def _export(box: Client, arguments: argparse.Namespace) -> int:
    with (
        box.pieces("/api/v1/cache/export", params=_which(arguments)) as pieces,
        _writing(arguments.file) as file,
    ):
        for piece in pieces:
            file.write(piece)
    return EXIT_OK


def _import(box: Client, arguments: argparse.Namespace) -> int:
    with _reading(arguments.file) as file:
        response = box.call(
            "POST", "/api/v1/cache/import", content=_pieces_of(file), patience_seconds=None
        )
    imported = _read(response.content, Imported)
    print(f"{imported.read} read, {imported.kept} kept")
    return EXIT_OK


def _warm(box: Client, arguments: argparse.Namespace) -> int:
    """Ask everything once, as batch; an error of one question is told and the next one asked."""
    results: Counter[str] = Counter()
    model = arguments.model or select_model(box.models()).id
    with _reading(arguments.file) as file:
        for request in warm_requests(file, model):
            try:
                response = box.call(
                    "POST",
                    request.path,
                    content=msgspec.json.encode(request.body),
                    headers={"X-Request-Class": "batch", "Content-Type": "application/json"},
                    patience_seconds=None,
                )
            except BoxError as error:
                if error.status is None:
                    raise
                print(f"hearth: {error}", file=sys.stderr)
                results["failed"] += 1
            else:
                results[response.headers.get("x-cache", "BYPASS")] += 1
    known = results["HIT"] + results["COALESCED"]
    print(
        f"{results['MISS']} computed, {known} known before, {results['BYPASS']} not kept, "
        f"{results['failed']} failed"
    )
    return 1 if results["failed"] else EXIT_OK


def _audit(box: Client, arguments: argparse.Namespace) -> int:
    from hearth_tui.cache_tables import audit_lines, audit_table
    from hearth_tui.tables import make_console

    with _reading(arguments.file) as file:
        response = box.call(
            "POST", "/api/v1/cache/audit", content=_pieces_of(file), patience_seconds=None
        )
    if arguments.json:
        print(msgspec.json.format(response.content).decode())
        return EXIT_OK
    audit = _read(response.content, Audit)
    console = make_console()
    console.print(audit_table(audit))
    for line in audit_lines(audit):
        console.print(line)
    return EXIT_OK


_ACTIONS: Mapping[str, Callable[[Client, argparse.Namespace], int]] = {
    "stats": _stats,
    "ls": _ls,
    "drop": _drop,
    "export": _export,
    "import": _import,
    "warm": _warm,
    "audit": _audit,
}


# --- parts -------------------------------------------------------------------------------------


def _which(arguments: argparse.Namespace) -> dict[str, str]:
    given = {"model": arguments.model, "key": arguments.key}
    return {name: value for name, value in given.items() if value}


def _read(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError:
        raise NotHearth("the box does not answer like a Hearth box") from None


@contextmanager
def _reading(name: str | None) -> Iterator[IO[bytes]]:
    if name is None:
        raise UsageError("say which FILE; - is standard input")
    if name == "-":
        yield sys.stdin.buffer
        return
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"{name}: there is no such file")
    with path.open("rb") as file:
        yield file


@contextmanager
def _writing(name: str | None) -> Iterator[IO[bytes]]:
    """The file is there whole, or not at all."""
    if name in (None, "-"):
        yield sys.stdout.buffer
        return
    target = Path(str(name))
    fresh = target.with_name(f"{target.name}.part")
    try:
        with fresh.open("wb") as file:
            fresh.chmod(0o600)
            yield file
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE_BYTES):
        yield piece
