"""Refused: a request that an engine cannot do, as the frame that says so."""

from __future__ import annotations

from hearthd import wire


class Refused(Exception):
    """A request that cannot be done, as the frame that says so."""

    def __init__(
        self, rid: int, code: str, message: str, param: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.frame = wire.Reject(rid=rid, status=status, code=code, message=message, param=param)
