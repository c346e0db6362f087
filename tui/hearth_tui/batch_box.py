"""What is asked of a box about batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from hearth_tui.batch_types import Batch, BatchPage, UploadedFile
from hearth_tui.client import Client
from hearth_tui.errors import NotHearth

T = TypeVar("T")

_PAGE = 100


def upload(box: Client, path: Path) -> str:
    """Put a file on the box, as it is read; its id."""
    with path.open("rb") as file:
        response = box.call(
            "POST",
            "/v1/files",
            data={"purpose": "batch"},
            files={"file": (path.name, file, "application/jsonl")},
            patience_seconds=None,
        )
    return read(response.content, UploadedFile).id


def create(
    box: Client, file_id: str, endpoint: str, window: str, metadata: dict[str, str]
) -> Batch:
    """Have a file answered."""
    asked = {
        "input_file_id": file_id,
        "endpoint": endpoint,
        "completion_window": window,
        "metadata": metadata,
    }
    return read(box.call("POST", "/v1/batches", json=asked).content, Batch)


def get(box: Client, batch_id: str) -> Batch:
    """How a batch stands."""
    return read(get_json(box, batch_id), Batch)


def get_json(box: Client, batch_id: str) -> bytes:
    """The same as the box says it."""
    return box.call("GET", _path(batch_id)).content


def cancel(box: Client, batch_id: str) -> Batch:
    """End a batch with what it has."""
    return read(box.call("POST", f"{_path(batch_id)}/cancel").content, Batch)


def listed(box: Client, limit: int | None = None) -> Iterator[Batch]:
    """The batches, the newest first; None: all."""
    after: str | None = None
    while limit is None or limit > 0:
        n = _PAGE if limit is None else min(limit, _PAGE)
        params = {"limit": str(n), **({} if after is None else {"after": after})}
        page = read(box.call("GET", "/v1/batches", params=params).content, BatchPage)
        yield from page.data
        if not page.has_more or not page.data:
            return
        after = page.data[-1].id
        limit = None if limit is None else limit - len(page.data)


def fetch(box: Client, file_id: str, target: Path) -> None:
    """A file of the box; the target is there whole, or not at all."""
    fresh = target.with_name(f"{target.name}.part")
    try:
        with (
            box.pieces(f"/v1/files/{file_id}/content") as pieces,
            fresh.open("wb") as file,
        ):
            for piece in pieces:
                file.write(piece)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def _path(batch_id: str) -> str:
    return f"/v1/batches/{batch_id}"


def read(content: bytes, kind: type[T]) -> T:
    """An answer of the box; raises NotHearth."""
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError:
        raise NotHearth("the box does not answer like a Hearth box") from None
