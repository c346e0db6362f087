"""From a command's arguments to a client of the box that they mean."""

from __future__ import annotations

import argparse
import os

from hearth_tui.address import find_address
from hearth_tui.client import Client
from hearth_tui.key import find_key


def open_box(arguments: argparse.Namespace) -> Client:
    """A client, to be used as a context manager; raises UsageError."""
    key = find_key(arguments.api_key_file, os.environ)
    return Client(find_address(arguments.url, arguments.socket, os.environ), key)
