"""An answer as it comes: its text, and how fast it came."""

from __future__ import annotations

import msgspec

from hearth_tui.errors import AnswerBrokenOff
from hearth_tui.types import Chunk, Completion, Usage

SHORTEST_SECONDS = 0.005
"""What came within that was there already, as answers from a cache are: nothing was measured."""


class Answer(msgspec.Struct, frozen=True):
    """A whole answer; this is also what `hearth ask --json` prints."""

    model: str | None
    text: str
    finish_reason: str | None
    usage: Usage | None
    ttft_seconds: float | None  # from the request to the first text; None: not streamed
    tokens_per_second: float | None  # after the first token; None: not measured


class AnswerMeter:
    """Adds up the chunks of one stream; times are of a monotonic clock."""

    def __init__(self, started_seconds: float) -> None:
        self._started_seconds = started_seconds
        self._first_seconds: float | None = None
        self._last_seconds = started_seconds
        self._texts: list[str] = []
        self._model: str | None = None
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    def add(self, chunk: Chunk, now_seconds: float) -> str:
        """Count a chunk and return the text that it adds."""
        self._model = chunk.model or self._model
        self._usage = chunk.usage or self._usage
        texts = []
        for choice in chunk.choices:
            if choice.index == 0:
                texts.append(choice.delta.content or "")
                self._finish_reason = choice.finish_reason or self._finish_reason
                if choice.delta.content or choice.finish_reason:
                    self._last_seconds = now_seconds  # the token that ends an answer has no text
        text = "".join(texts)
        if text:
            self._texts.append(text)
            if self._first_seconds is None:
                self._first_seconds = now_seconds
        return text

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._texts)

    def finish(self) -> Answer:
        """The whole answer; raises AnswerBrokenOff when the stream ended without a finish reason."""
        if self._finish_reason is None:
            raise AnswerBrokenOff("the box ended the stream before the answer was finished")
        return Answer(
            model=self._model,
            text=self.text,
            finish_reason=self._finish_reason,
            usage=self._usage,
            ttft_seconds=self._ttft_seconds(),
            tokens_per_second=self._tokens_per_second(),
        )

    def _ttft_seconds(self) -> float | None:
        return None if self._first_seconds is None else self._first_seconds - self._started_seconds

    def _tokens_per_second(self) -> float | None:
        if self._usage is None or self._first_seconds is None:
            return None
        seconds = self._last_seconds - self._first_seconds
        n_later = self._usage.completion_tokens - 1  # the first one waited for the prompt
        return n_later / seconds if seconds > SHORTEST_SECONDS and n_later > 0 else None


def whole_answer(completion: Completion) -> Answer:
    """An answer that was not streamed, so that nothing is known of its speed."""
    if not completion.choices:
        raise AnswerBrokenOff("the box answered without a choice")
    choice = completion.choices[0]
    return Answer(
        model=completion.model,
        text=choice.message.content or "",
        finish_reason=choice.finish_reason,
        usage=completion.usage,
        ttft_seconds=None,
        tokens_per_second=None,
    )
