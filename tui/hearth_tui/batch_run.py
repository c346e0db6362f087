"""A batch from a file here to a file here: begun, or taken up where an earlier run of the same file left it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hearth_tui import batch_box
from hearth_tui.batch_types import USELESS, Batch
from hearth_tui.client import Client
from hearth_tui.errors import BoxError, BoxUnreachable, UsageError

MARK = "hearth_input"
"""Under this name a batch's metadata say what file it is of."""
PATIENCE_SECONDS = 120.0
"""For a box that restarts while a batch is followed."""
_LEAST_PAUSE_SECONDS = 0.1
_MOST_PAUSE_SECONDS = 2.0
_PIECE_BYTES = 1 << 20
_DEFAULT_ENDPOINT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Input:
    """A file of requests."""

    path: Path
    endpoint: str
    digest: str


class _Line(msgspec.Struct):
    url: str = ""


def read_input(path: Path, endpoint: str | None) -> Input:
    """A file, its endpoint (of its first request, where none is given) and what it is known by."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")
    digest = hashlib.sha256()
    with path.open("rb") as file:
        first = next((line for line in file if line.strip()), b"")
        file.seek(0)
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    if endpoint is None:
        try:
            endpoint = msgspec.json.decode(first, type=_Line).url
        except msgspec.MsgspecError:
            endpoint = ""
    return Input(path, endpoint or _DEFAULT_ENDPOINT, f"sha256:{digest.hexdigest()}")


def find_or_begin(box: Client, asked: Input, window: str, *, anew: bool) -> tuple[Batch, bool]:
    """The batch of a file, and whether it was there already."""
    if not anew:
        for batch in batch_box.listed(box):
            metadata = batch.metadata or {}
            same = metadata.get(MARK) == asked.digest and batch.endpoint == asked.endpoint
            if same and batch.status not in USELESS:
                return batch, True
    file_id = batch_box.upload(box, asked.path)
    metadata = {MARK: asked.digest, "hearth_name": asked.path.name[:512]}
    return batch_box.create(box, file_id, asked.endpoint, window, metadata), False


def follow(box: Client, batch: Batch, show: Callable[[Batch], None]) -> Batch:
    """Show how it goes on until it is over; a box that restarts is waited for."""
    pause_seconds = _LEAST_PAUSE_SECONDS
    heard = time.monotonic()
    show(batch)
    while not batch.is_over:
        time.sleep(pause_seconds)
        pause_seconds = min(_MOST_PAUSE_SECONDS, pause_seconds * 1.3)
        try:
            batch = batch_box.get(box, batch.id)
        except (BoxUnreachable, BoxError) as error:
            passes = isinstance(error, BoxUnreachable) or (error.status or 0) >= 500
            if not passes or time.monotonic() - heard > PATIENCE_SECONDS:
                raise
            continue
        heard = time.monotonic()
        show(batch)
    return batch


def fetch(box: Client, batch: Batch, output: Path, errors: Path) -> list[Path]:
    """Its answers and its errors, each where it belongs; which there are. A file of before is replaced."""
    written = []
    for file_id, target in ((batch.output_file_id, output), (batch.error_file_id, errors)):
        if file_id is not None:
            batch_box.fetch(box, file_id, target)
            written.append(target)
        else:
            target.unlink(missing_ok=True)
    return written


def errors_beside(output: Path) -> Path:
    """Where errors go by default: out.jsonl has out.errors.jsonl. Pure."""
    return output.with_name(f"{output.stem}.errors{output.suffix or '.jsonl'}")
