"""`hearth keys`: give keys out, list them, take them back."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote

import msgspec

from hearth_tui.client import Client
from hearth_tui.connect import open_box
from hearth_tui.errors import EXIT_OK, NotHearth, UsageError
from hearth_tui.key_types import KeyLimits, KeyList, NewKey, NewKeyRequest, Revoked
from hearth_tui.printable import one_line

T = TypeVar("T")

_KEYS = "/api/v1/keys"
_LIFE = re.compile(r"(\d{1,6})([smhdw])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and what a new key may."""
    parser.add_argument("action", choices=_ACTIONS, help="what to do")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of add and revoke: whose key")
    parser.add_argument(
        "--role", choices=("user", "batch", "operator", "readonly"), help="of add (default: user)"
    )
    parser.add_argument(
        "--class",
        dest="klass",
        choices=("interactive", "normal", "batch"),
        help="the most urgent it may ask for (default: normal)",
    )
    parser.add_argument(
        "-m", "--model", action="append", default=[], help="only this one; may be repeated"
    )
    parser.add_argument(
        "--expires", metavar="WHEN", help="90d, 12h, or a moment such as 2027-01-31T18:00:00+01:00"
    )
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at once")
    parser.add_argument("--tokens-per-minute", type=int, metavar="N", help="prompts and answers")
    parser.add_argument("--weight", type=float, metavar="X", help="of its share (default: 1)")
    parser.add_argument("--salt", help="prefixes are shared among equal salts only")
    parser.add_argument("--json", action="store_true", help="print what the box answers")


def run(arguments: argparse.Namespace) -> int:
    """Do it and return the exit status."""
    with open_box(arguments) as box:
        return _ACTIONS[arguments.action](box, arguments)


def _add(box: Client, arguments: argparse.Namespace) -> int:
    expires, expires_seconds = expiry(arguments.expires)
    request = NewKeyRequest(
        name=_name(arguments),
        role=arguments.role,
        klass=arguments.klass,
        weight=arguments.weight,
        limits=KeyLimits(arguments.concurrency, arguments.tokens_per_minute),
        salt=arguments.salt,
        models=arguments.model,
        expires=expires,
        expires_seconds=expires_seconds,
    )
    content = box.call("POST", _KEYS, content=msgspec.json.encode(request)).content
    if arguments.json:
        print(msgspec.json.format(content).decode())
        return EXIT_OK
    new = _read(content, NewKey)
    print(one_line(new.key))
    if sys.stdout.isatty():
        print("nobody can show this key again: keep it now", file=sys.stderr)
    return EXIT_OK


def _ls(box: Client, arguments: argparse.Namespace) -> int:
    content = box.call("GET", _KEYS).content
    if arguments.json:
        print(msgspec.json.format(content).decode())
        return EXIT_OK
    keys = _read(content, KeyList).keys
    if not keys:
        print("no keys: only this machine itself may use the box", file=sys.stderr)
        return EXIT_OK
    from hearth_tui.key_tables import keys_table
    from hearth_tui.tables import make_console

    make_console().print(keys_table(keys, time.time()))
    return EXIT_OK


def _revoke(box: Client, arguments: argparse.Namespace) -> int:
    path = f"{_KEYS}/{quote(_name(arguments), safe='')}"
    content = box.call("DELETE", path).content
    if arguments.json:
        print(msgspec.json.format(content).decode())
        return EXIT_OK
    revoked = _read(content, Revoked)
    ended = f", {revoked.requests_ended} requests ended" if revoked.requests_ended else ""
    print(f"{one_line(revoked.name)} revoked{ended}")
    if revoked.keys_left == 0:
        print(
            "no key is left: on an address that others reach, hearthd does not start without one",
            file=sys.stderr,
        )
    return EXIT_OK


_ACTIONS: Mapping[str, Callable[[Client, argparse.Namespace], int]] = {
    "add": _add,
    "ls": _ls,
    "revoke": _revoke,
}


def expiry(text: str | None) -> tuple[str | None, float | None]:
    """A moment, or seconds from now; raises UsageError. A moment without a zone is of the local one."""
    if text is None:
        return None, None
    life = _LIFE.fullmatch(text)
    if life is not None:
        return None, float(int(life[1]) * _SECONDS[life[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--expires {text}: it must be a time such as 90d or 12h, or a moment such as 2027-01-31"
        ) from None
    return moment.astimezone().isoformat(), None


def _name(arguments: argparse.Namespace) -> str:
    if arguments.name is None:
        raise UsageError(f"say whose key: hearth keys {arguments.action} NAME")
    name: str = arguments.name
    return name


def _read(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError:
        raise NotHearth("the box does not answer like a Hearth box") from None
