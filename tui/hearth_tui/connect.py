"""From a command's arguments to a client of the box that they mean."""

from __future__ import annotations

import argparse
import os
import sys

from hearth_tui.address import find_address
from hearth_tui.client import Client
from hearth_tui.key import find_key
from hearth_tui.trust import KnownBoxes, Wanted, context_for


def open_box(arguments: argparse.Namespace) -> Client:
    """A client, to be used as a context manager; raises UsageError, and what `context_for` raises."""
    key = find_key(arguments.api_key_file, os.environ)
    address = find_address(arguments.url, arguments.socket, os.environ)
    tls = context_for(
        address.url,
        Wanted(arguments.fingerprint, arguments.ca),
        KnownBoxes.of_user(os.environ),
        _ask if sys.stdin.isatty() and sys.stderr.isatty() else None,
    )
    return Client(address, key, tls)


def _ask(question: str) -> bool:
    """Of whoever sits at the terminal; anything but yes is no."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
