"""`python -m hearthd.store FILE MODULE:SCHEMA`: bring a database's tables up to date, and exit."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from hearthd.store.schema import Schema


def main(path: str, address: str) -> None:
    """Do the steps that the file has not seen."""
    module, _, name = address.partition(":")
    schema: Schema = getattr(import_module(module), name)
    schema.migrate(Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
