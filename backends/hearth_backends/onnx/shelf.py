"""Shelf: the folder of packed weights within a budget of bytes; what was used longest ago makes way.

Whoever maps a file holds a shared lock on it, and what is locked is never deleted. Several processes
share the folder.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from hearth_backends.errors import Unsupported

log = logging.getLogger(__name__)

ENDING = ".weights"
BUDGET = "HEARTH_CACHE_BYTES"
"""The variable that names another budget: a number of bytes, or a text such as "20GiB"; 0: no bound."""
DEFAULT_BYTES = 64 << 30
_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}iB": 1024**i for i, letter in enumerate("KMGT", 1)}
_UNITS |= {f"{letter}B": 1000**i for i, letter in enumerate("kMGT", 1)}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def budget_bytes(environ: Mapping[str, str]) -> int | None:
    """What all packed files may take; None: no bound; raises Unsupported for what is no size."""
    said = environ.get(BUDGET)
    if said is None:
        return DEFAULT_BYTES
    match = _SIZE.fullmatch(said)
    if match is None or match[2] not in _UNITS:
        raise Unsupported(f'{BUDGET} = {said!r:.40} is no size; "20GiB" and 20000000000 are')
    return int(float(match[1]) * _UNITS[match[2]]) or None


def hold(path: Path) -> BinaryIO | None:
    """Lock a file against deletion, for as long as what is returned is open; None where it is gone."""
    try:
        file = path.open("rb")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_nlink == 0:  # deleted between opening and locking
            file.close()
            return None
        with suppress(OSError):  # somebody else's file, which only they can mark as used
            os.utime(path)
    except OSError:
        file.close()
        raise
    return file


def make_room(folder: Path, n_bytes: int, budget: int | None) -> None:
    """Delete what was used longest ago and is in nobody's use, until n_bytes more are within the budget.

    Where that is not enough, it is told: what is wanted now is wanted more.
    """
    _sweep(folder)
    if budget is None:
        return
    files = _files(folder)
    total = n_bytes + sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= budget:
            return
        if _deleted(path):
            log.info("%s made way (%d bytes): packed weights take %d at most", path, size, budget)
            total -= size
    if total > budget:
        log.warning("packed weights in %s take %d bytes, %s is %d", folder, total, BUDGET, budget)


def _sweep(folder: Path) -> None:
    """Delete what processes that are gone left half written."""
    for path in folder.glob("*.partial-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            path.unlink(missing_ok=True)


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """When each was used, its size, its path."""
    found = []
    for path in folder.glob(f"*{ENDING}"):
        with suppress(OSError):  # gone meanwhile
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    return found


def _deleted(path: Path) -> bool:
    """Whether it could be: nobody has locked it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        return False
    return True
