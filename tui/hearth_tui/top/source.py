"""Source: what `hearth top` reads of a box, and does to it; every method blocks."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote

import msgspec

from hearth_tui.client import Client
from hearth_tui.errors import BoxError, NotHearth
from hearth_tui.top.types import Batch, BatchList, Operated, Top

T = TypeVar("T")

_OLD_BOX = 404


class Source:
    """Raises ClientError where the box cannot be reached, or says no."""

    def __init__(self, box: Client) -> None:
        self._box = box

    @property
    def name(self) -> str:
        """Where the box is."""
        return str(self._box.address)

    def top(self, log_after: int) -> Top:
        """The box now, with the lines of its log after a number."""
        try:
            return self._get("/api/v1/top", Top, log_after=str(log_after))
        except BoxError as error:
            if error.status == _OLD_BOX:
                raise NotHearth(
                    f"the box at {self.name} is too old for hearth top", status=_OLD_BOX
                ) from error
            raise

    def batches(self) -> list[Batch] | None:
        """Its batch jobs, the newest first; None where it tells of none."""
        try:
            return self._get("/v1/batches", BatchList, limit="50").data
        except BoxError:  # it keeps none, or this key may not see them: the rest is worth showing
            return None

    def operate(self, model: str, operation: str) -> Operated:
        """Load, unload, drain, pin or unpin a model."""
        path = f"/api/v1/models/{quote(model, safe='')}/{operation}"
        response = self._box.call("POST", path)
        return _decode(response.content, Operated)

    def cancel(self, number: int) -> None:
        """End a request."""
        self._box.call("DELETE", f"/api/v1/requests/{number}")

    def hang_up(self) -> None:
        """End what waits for the box; from any thread."""
        self._box.cut()

    def _get(self, path: str, kind: type[T], **query: str) -> T:
        return _decode(self._box.call("GET", path, params=query).content, kind)


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise NotHearth(f"the answer of the box cannot be read: {error}") from error
