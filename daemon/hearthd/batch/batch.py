"""Batch: one file of requests on its way to its answers; every change of its status is a pure function."""

from __future__ import annotations

import re
import secrets
from typing import Final, Literal, TypeAlias

import msgspec

from hearthd.batch.usage import Usage
from hearthd.errors import InvalidRequest

Status: TypeAlias = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling",
    "cancelled",
]  # fmt: skip
"""OpenAI's words."""
Ending: TypeAlias = Literal["completed", "expired", "cancelled", "failed"]

OVER: Final[frozenset[Status]] = frozenset({"completed", "failed", "expired", "cancelled"})

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank")

MOST_WINDOW_SECONDS: Final = 30 * 86400.0
_WINDOW = re.compile(r"(\d{1,7})([smhd])", re.ASCII)
_UNIT_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a batch as a whole, or one of its lines, came to nothing."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None  # of the input, from 1


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a batch. Moments are unix seconds; None: it has not come to that."""

    id: str
    owner: str  # a principal's name
    endpoint: str
    input_file: str
    window: str  # as it was asked for
    window_seconds: float
    created: float
    output_file: str  # ids, taken at once; there are such files when it is over, if not empty
    error_file: str
    output_keep_seconds: float | None = None
    metadata: dict[str, str] | None = None

    status: Status = "validating"
    n_total: int = 0  # lines
    n_completed: int = 0
    n_failed: int = 0
    usage: Usage = Usage()
    model: str | None = None  # of its first line
    has_output: bool = False
    has_errors: bool = False
    faults: tuple[Fault, ...] = ()
    paused: str | None = None  # why it waits, in words

    in_progress: float | None = None
    finalizing: float | None = None
    completed: float | None = None
    failed: float | None = None
    expired: float | None = None
    cancelling: float | None = None
    cancelled: float | None = None

    @property
    def expires(self) -> float:
        """When it ends, done or not."""
        return self.created + self.window_seconds

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in OVER

    @property
    def ended(self) -> float | None:
        """When it was over."""
        return self.completed or self.failed or self.expired or self.cancelled

    @property
    def is_cancelling(self) -> bool:
        """Whether somebody wants it to end."""
        return self.status == "cancelling"

    @property
    def line_prefix(self) -> str:
        """What the id of each answer begins with; the number of its line follows."""
        return f"batch_req_{self.id.removeprefix('batch_')}_"


def new_id(kind: Literal["batch_", "file-"]) -> str:
    """An id that nobody can guess."""
    return kind + secrets.token_hex(12)


def window_seconds(text: str) -> float:
    """Seconds of "24h", "90s", "7d"; raises InvalidRequest. Pure."""
    match = _WINDOW.fullmatch(text)
    seconds = float(match[1]) * _UNIT_SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= MOST_WINDOW_SECONDS:
        raise InvalidRequest(
            "completion_window: must be a number and s, m, h or d, such as 24h, and 30d at most",
            param="completion_window",
        )
    return seconds


def begun(batch: Batch, n_total: int, now: float) -> Batch:
    """Its input can be read. Pure."""
    status: Status = "cancelling" if batch.status == "cancelling" else "in_progress"
    return msgspec.structs.replace(batch, status=status, n_total=n_total, in_progress=now)


def finalized(batch: Batch, now: float) -> Batch:
    """Every line has its answer. Pure."""
    if batch.status != "in_progress":
        return batch
    return msgspec.structs.replace(batch, status="finalizing", finalizing=now, paused=None)


def cancel_asked(batch: Batch, now: float) -> Batch:
    """Somebody wants it to end; raises InvalidRequest where it is too late. Pure."""
    if batch.status == "cancelling":
        return batch
    if batch.status not in ("validating", "in_progress"):
        raise InvalidRequest(
            f"the batch {batch.id} is {batch.status} and cannot be cancelled",
            code="batch_not_cancellable",
        )
    return msgspec.structs.replace(batch, status="cancelling", cancelling=now)


def ended(
    batch: Batch,
    ending: Ending,
    now: float,
    *,
    has_output: bool = False,
    has_errors: bool = False,
    faults: tuple[Fault, ...] = (),
) -> Batch:
    """It is over, with these files. Pure."""
    return msgspec.structs.replace(
        batch,
        status=ending,
        has_output=has_output,
        has_errors=has_errors,
        faults=faults,
        paused=None,
        **{ending: now},
    )
