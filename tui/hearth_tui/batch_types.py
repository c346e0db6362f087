"""Batches and files as a box tells of them."""

from __future__ import annotations

import msgspec

OVER = frozenset({"completed", "failed", "expired", "cancelled"})
USELESS = frozenset({"failed", "expired", "cancelled", "cancelling"})
"""What is asked for again begins anew rather than with one of these."""


class RequestCounts(msgspec.Struct, frozen=True):
    """Lines."""

    total: int = 0
    completed: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        """Those that nothing more is done for."""
        return self.completed + self.failed


class BatchError(msgspec.Struct, frozen=True):
    """Why a batch came to nothing."""

    code: str = ""
    message: str = ""
    line: int | None = None


class BatchErrors(msgspec.Struct, frozen=True):
    """All reasons."""

    data: list[BatchError] = []


class BatchDetails(msgspec.Struct, frozen=True):
    """What only Hearth tells."""

    owner: str = ""
    paused: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """One batch; moments are unix seconds."""

    id: str
    status: str
    endpoint: str
    input_file_id: str
    created_at: int
    request_counts: RequestCounts = RequestCounts()
    model: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    completion_window: str = ""
    expires_at: int | None = None
    errors: BatchErrors | None = None
    metadata: dict[str, str] | None = None
    hearth: BatchDetails = BatchDetails()

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in OVER


class BatchPage(msgspec.Struct, frozen=True):
    """Some of the batches, the newest first."""

    data: list[Batch]
    has_more: bool = False


class UploadedFile(msgspec.Struct, frozen=True):
    """A file on the box."""

    id: str
    bytes: int
