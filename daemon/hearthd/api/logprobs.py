"""Log-probabilities as clients see them: the legacy lists of completions, the entries of chats."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence

import msgspec

from hearthd import wire

_LEAST = -9999.0  # what OpenAI writes for "never"; JSON has no infinity


def token_text(piece: bytes) -> str:
    """A token's text; bytes that are no whole characters are written out, as OpenAI does."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _LEAST


# --- chats -------------------------------------------------------------------------------------


class TopToken(msgspec.Struct, frozen=True):
    """One of the best tokens at a position."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(msgspec.Struct, frozen=True):
    """One token of the answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopToken]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of a message, or of a part of one."""

    content: list[ChatToken]
    refusal: None = None


def chat_logprobs(entries: Sequence[wire.TokenLogprob]) -> ChatLogprobs:
    """The entries in the shape of chat completions."""
    return ChatLogprobs([_chat_token(entry) for entry in entries])


def _chat_token(entry: wire.TokenLogprob) -> ChatToken:
    logprob = _LEAST if entry.logprob is None else _finite(entry.logprob)
    top = [
        TopToken(token_text(piece), _finite(value), list(piece)) for _, piece, value in entry.top
    ]
    return ChatToken(token_text(entry.piece), logprob, list(entry.piece), top)


# --- completions -------------------------------------------------------------------------------


class LegacyLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities of a text, as parallel lists; those of a prompt's first token are null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]  # characters of the choice's text before each token


class LegacyWriter:
    """Turns the deltas of one choice into LegacyLogprobs, keeping count of the characters."""

    __slots__ = ("_at", "_text", "_utf8")

    def __init__(self) -> None:
        self._text = ""  # seen, from the character at which the next token begins
        self._at = 0  # characters before `_text`
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def write(self, delta: wire.Delta) -> LegacyLogprobs:
        """The lists for the tokens of one delta."""
        self._text += delta.text
        entries = delta.logprobs or []
        return LegacyLogprobs(
            tokens=[token_text(entry.piece) for entry in entries],
            token_logprobs=[
                None if entry.logprob is None else _finite(entry.logprob) for entry in entries
            ],
            top_logprobs=[_best(entry) for entry in entries],
            text_offset=[self._offset(entry.piece) for entry in entries],
        )

    def _offset(self, piece: bytes) -> int:
        """Where a token begins; one that is not part of the text (a control token) takes no room."""
        at = self._at
        shown = self._utf8.decode(piece)
        if not self._text.startswith(shown):
            shown = shown.removeprefix(" ")  # the space that some tokenizers put before a text
        if self._text.startswith(shown):
            self._text = self._text[len(shown) :]
            self._at += len(shown)
        return at


def _best(entry: wire.TokenLogprob) -> dict[str, float] | None:
    """The n best and the token itself; None where nothing was before it."""
    if entry.logprob is None:
        return None
    best = {token_text(piece): _finite(logprob) for _, piece, logprob in entry.top}
    best.setdefault(token_text(entry.piece), _finite(entry.logprob))
    return best
