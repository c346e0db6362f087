"""A folder that takes its name when all went well, and is gone when not."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hearth_backends.errors import ModelFileError, OutOfMemory

_PARTIAL = ".partial-"


@contextmanager
def appearing(out: Path, n_bytes: int, *, replace: bool) -> Iterator[Path]:
    """A new folder beside `out` to be filled with so much; then it is `out`, and an earlier one is deleted.

    Raises ModelFileError where `out` is there and `replace` is not asked for, or where it cannot be
    written, and OutOfMemory where the disk is full; whatever is raised, what was written is deleted.
    """
    if out.exists() and not replace:
        raise ModelFileError(f"{out} is there already; --force replaces it")
    if out.exists() and not _is_checkpoint(out):
        raise ModelFileError(f"{out} is no checkpoint's folder, and is not replaced")
    partial = out.with_name(f".{out.name}{_PARTIAL}{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        free = shutil.disk_usage(out.parent).free
        if free < n_bytes:
            raise OutOfMemory(
                f"no room on disk for {out}: it takes {n_bytes} bytes, and {free} are free"
            )
        partial.mkdir()
        yield partial
        _take_place(partial, out)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfMemory(f"no room on disk for {out}; what was written is deleted") from error
        raise ModelFileError(f"{out} cannot be written: {error}") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _is_checkpoint(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "config.json").is_file() or not any(folder.iterdir()))


def _take_place(partial: Path, out: Path) -> None:
    """Rename; an earlier folder steps aside first, and comes back where that fails."""
    if not out.exists():
        partial.rename(out)
        return
    aside = partial.with_name(partial.name + "-old")
    out.rename(aside)
    try:
        partial.rename(out)
    except OSError:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Delete what killed processes left of the same name."""
    begin = f".{out.name}{_PARTIAL}"
    for path in out.parent.iterdir():
        if path.name.startswith(begin):
            pid = path.name.removeprefix(begin).removesuffix("-old")
            if pid.isdecimal() and not Path("/proc", pid).exists():
                shutil.rmtree(path, ignore_errors=True)
