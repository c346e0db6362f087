"""From a command's arguments to a client of the box that they mean."""

from __future__ import annotations

import argparse
import os
import sys

from hearth_tui.address import Address, find_address
from hearth_tui.client import Client
from hearth_tui.errors import UsageError
from hearth_tui.key import find_key
from hearth_tui.trust import KnownBoxes, Wanted, context_for


def open_box(arguments: argparse.Namespace) -> Client:
    """A client, to be used as a context manager; raises UsageError, and what `context_for` raises."""
    key = find_key(arguments.api_key_file, os.environ)
    address = _address_of(arguments)
    tls = context_for(
        address.url,
        Wanted(arguments.fingerprint, arguments.ca),
        KnownBoxes.of_user(os.environ),
        _ask if sys.stdin.isatty() and sys.stderr.isatty() else None,
    )
    return Client(address, key, tls)


def _address_of(arguments: argparse.Namespace) -> Address:
    if arguments.box is None:
        return find_address(arguments.url, arguments.socket, os.environ)
    if arguments.url or arguments.socket:
        raise UsageError("--box is one way to say where the box is, --url and --socket are others")
    from hearth_tui.discovery import find_box

    return Address(find_box(arguments.box).url)


def _ask(question: str) -> bool:
    """Of whoever sits at the terminal; anything but yes is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
