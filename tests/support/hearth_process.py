"""`hearth` as users run it: the real entry point in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

HEARTH = str(Path(sys.executable).with_name("hearth"))


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would decide where the box is; warnings are errors."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HEARTH_", "XDG_")) and name not in ("COLUMNS", "LINES")
    }
    return {**kept, "PYTHONWARNINGS": "error", **extra}


def hearth(
    *arguments: str, stdin: bytes | None = None, **extra: str
) -> subprocess.CompletedProcess[bytes]:
    """Run to the end; no standard input counts as an empty one."""
    return subprocess.run(
        [HEARTH, *arguments],
        input=stdin or b"",
        capture_output=True,
        env=environment(extra),
        timeout=30,
    )


@contextmanager
def start_hearth(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run it while a test does something; leaving the context ends it and closes its pipes."""
    with subprocess.Popen(
        [HEARTH, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({}),
    ) as running:
        try:
            yield running
        finally:
            running.kill()
