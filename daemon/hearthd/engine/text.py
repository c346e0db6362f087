"""TextStream: tokens of one request in, text out, exact at every UTF-8 boundary and stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import NamedTuple

from hearth_backends.base import Tokenizer


def partial_match(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that is a proper beginning of a stop string."""
    longest = 0
    for stop in stops:
        for n in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:n]):
                longest = n
                break
    return longest


def first_match(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the earliest stop string begins, and which: the longest where two begin there."""
    found = [(at, -len(stop), stop) for stop in stops if (at := text.find(stop)) >= 0]
    if not found:
        return None
    at, _, stop = min(found)
    return at, stop


class _Pending(NamedTuple):
    """A token that is held back, and the characters of all text that are its own."""

    token: int
    start: int
    end: int
    is_cut: bool  # it ends within a character, and cannot go out before the token that completes it


class TextStream:
    """Turns tokens into text that may be shown at once.

    Text that may be the beginning of a stop string is held back, and with it all text of the tokens
    that it came from: what is released is the text of the tokens that are, so that another stream can
    `resume` after them. Bytes that are no UTF-8 become U+FFFD, once it is sure that they are none.
    """

    __slots__ = (
        "_held", "_include_stop", "_min_tokens", "_n_released", "_n_tokens", "_pending", "_shown",
        "_start", "_stops", "_tokenizer", "_utf8", "stopped_by",
    )  # fmt: skip

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        include_stop: bool = False,
        min_tokens: int = 0,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """Stop strings count only after `min_tokens` tokens; `shown` control tokens have text."""
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._include_stop = include_stop
        self._min_tokens = min_tokens
        self._shown = shown
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # decoded, not released
        self._n_released = 0  # characters released so far
        self._pending: list[_Pending] = []
        self._start = 0  # characters of all tokens so far; an unfinished one counts
        self._n_tokens = 0
        self.stopped_by: str | None = None

    def resume(self, tokens: Sequence[int]) -> None:
        """Begin after tokens that have been released before, with all of their text."""
        for token in tokens:
            piece = self._tokenizer.piece(token, special=token in self._shown)
            self._start += len(self._utf8.decode(piece))
        self._start += len(self._utf8.decode(b"", final=True))
        self._n_released = self._start
        self._n_tokens += len(tokens)

    def push(self, token: int) -> tuple[str, list[int]]:
        """Add a token; returns text and tokens that may go out now. Nothing comes after a stop."""
        if self.stopped_by is not None:
            return "", []
        self._n_tokens += 1
        self._held += self._utf8.decode(self._tokenizer.piece(token, special=token in self._shown))
        is_cut = bool(self._utf8.getstate()[0])  # within a character
        end = self._n_released + len(self._held) + is_cut
        self._pending.append(_Pending(token, self._start, end, is_cut))
        self._start = end
        if not self._stops:
            return self._release(len(self._held))
        if self._n_tokens > self._min_tokens:
            self._look_for_stop()
        if self.stopped_by is not None:
            return self._release_all()
        return self._release(len(self._held) - partial_match(self._held, self._stops))

    def flush(self) -> tuple[str, list[int]]:
        """What was held back, when the request ends without a stop string."""
        if self.stopped_by is None:
            self._held += self._utf8.decode(b"", final=True)
        return self._release_all()

    def _look_for_stop(self) -> None:
        match = first_match(self._held, self._stops)
        if match is None:
            return
        at, self.stopped_by = match
        end = at + len(self.stopped_by) if self._include_stop else at
        self._held = self._held[:end]
        n_kept = self._n_released + end
        self._pending = [pending for pending in self._pending if pending.start < n_kept]

    def _release_all(self) -> tuple[str, list[int]]:
        """After the last token, whose text may have been cut by a stop string."""
        text, tokens = self._held, [pending.token for pending in self._pending]
        self._n_released += len(text)
        self._held = ""
        self._pending.clear()
        return text, tokens

    def _release(self, n_chars: int) -> tuple[str, list[int]]:
        """The tokens whose text is within the next `n_chars`, and that text."""
        most = self._n_released + n_chars
        n_tokens = 0
        for i, pending in enumerate(self._pending, 1):
            if pending.end > most:
                break
            if not pending.is_cut:
                n_tokens = i
        if not n_tokens:
            return "", []
        n_chars = self._pending[n_tokens - 1].end - self._n_released
        text, self._held = self._held[:n_chars], self._held[n_chars:]
        self._n_released += n_chars
        tokens = [pending.token for pending in self._pending[:n_tokens]]
        del self._pending[:n_tokens]
        return text, tokens
