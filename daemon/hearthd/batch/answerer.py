"""Answerer: whoever answers the lines of batches; the API does, as it answers everybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from hearthd.serving.principal import Principal

MOST_ATTEMPTS: Final = 4
"""Of a line that takes an engine down with it, or seems to."""
_LATER_SECONDS: Final = 1.0
_REPAIR_SECONDS: Final = 5.0  # until a model that failed is looked at again
_FIRST_BACKOFF_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """One line, as a request."""

    url: str
    body: bytes
    principal: Principal
    request_id: str
    deadline: float  # unix seconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    request_id: str
    body: bytes
    retry_after_seconds: float | None = None


class Answerer(Protocol):
    """Asks as a client would; cancelling cancels the request."""

    async def ask(self, question: Question) -> Answer:
        """The whole answer, also where it is an error; raises ConnectionError when there is none."""


Fate: TypeAlias = Literal["keep", "again", "wait", "expired", "revoked"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means for its line."""

    fate: Fate
    seconds: float = 0.0  # before the next attempt
    why: str | None = None  # that is worth telling: something has to be repaired first


class _Error(msgspec.Struct):
    code: str | None = None
    message: str = ""


class _Envelope(msgspec.Struct):
    error: _Error = msgspec.field(default_factory=_Error)


_decoder = msgspec.json.Decoder(_Envelope)


def verdict_on(answer: Answer, n_attempts: int) -> Verdict:
    """Whether an answer stands, or the line is asked again; `n_attempts` with this one. Pure.

    What passes by itself is waited for; what the line itself may be to blame for is tried a few times.
    """
    if answer.status < 400:
        return Verdict("keep")
    error = _error_of(answer)
    seconds = answer.retry_after_seconds or _LATER_SECONDS
    if answer.status == 429:
        return Verdict("wait", seconds)
    if answer.status == 503:
        if error.code in ("shutting_down", "model_loading"):
            return Verdict("wait", seconds)
        return Verdict("wait", _REPAIR_SECONDS, error.message)
    if answer.status == 504 and error.code == "deadline_exceeded":
        return Verdict("expired")
    if answer.status == 401:
        return Verdict("revoked", why=error.message)
    if error.code == "engine_failed" and n_attempts < MOST_ATTEMPTS:
        return Verdict("again", _FIRST_BACKOFF_SECONDS * 2**n_attempts)
    return Verdict("keep")


def _error_of(answer: Answer) -> _Error:
    try:
        return _decoder.decode(answer.body).error
    except msgspec.MsgspecError:
        return _Error()
