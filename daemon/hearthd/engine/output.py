"""Output: what one request has to say, step by step, as deltas for hearthd."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from hearth_backends.base import Tokenizer
from hearthd import wire
from hearthd.engine.request import Request
from hearthd.engine.text import TextStream


class Output:
    """Follows one request from its first token to its finish.

    `finish` is None while the request goes on; afterwards it is the reason, and one last delta
    carries it.
    """

    __slots__ = (
        "_echo", "_first", "_logprobs", "_n_output", "_request", "_scored", "_stream", "finish", "stopped_by",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        *,
        echo: str | None = None,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        """`echo`: the prompt's text, if it is to come first. Tokens already emitted are not repeated.

        `shown`: control tokens whose names are part of the text.
        """
        limits = request.limits
        self._request = request
        self._echo = echo
        self._first = True
        self._logprobs: deque[wire.TokenLogprob] = deque()  # of tokens that are held back
        self._scored: list[wire.TokenLogprob] = []  # of the prompt
        self._n_output = request.n_output
        self._stream = TextStream(
            tokenizer,
            limits.stop,
            include_stop=limits.include_stop,
            min_tokens=limits.min_output,
            shown=shown,
        )
        self._stream.resume(request.tokens[request.n_prompt :])
        self.finish: wire.FinishReason | None = None
        self.stopped_by: str | int | None = None

    def score(self, entries: Sequence[wire.TokenLogprob]) -> None:
        """Log-probabilities of the next tokens of the prompt."""
        self._scored += entries

    def advance(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[wire.TokenLogprob] | None = None,
        *,
        is_over: bool = False,
    ) -> wire.Delta | None:
        """What tokens add to the text; None where all of it is held back for now.

        `is_over`: nothing may follow these tokens, whatever the limits are.
        """
        text = ""
        released: list[int] = []
        limits = self._request.limits
        for i, token in enumerate(tokens):
            self._n_output += 1
            if token in limits.end_ids:
                self.finish, self.stopped_by = "stop", token
                break
            if logprobs is not None:
                self._logprobs.append(logprobs[i])
            more, tokens_out = self._stream.push(token)
            text += more
            released += tokens_out
            if self._stream.stopped_by is not None:
                self.finish, self.stopped_by = "stop", self._stream.stopped_by
                break
            if is_over and i == len(tokens) - 1:
                self.finish = "stop"
                break
            if self._n_output >= limits.max_output:
                self.finish = "length"
                break
        if self.finish is not None:
            more, tokens_out = self._stream.flush()
            text += more
            released += tokens_out
        if not (text or released or self.finish or self._first):
            return None
        return self._delta(text, released)

    def end(self, reason: wire.FinishReason, error: tuple[str, str] | None = None) -> wire.Delta:
        """The last delta of a request that ends for another reason than its tokens."""
        self.finish = reason
        text, released = self._stream.flush()
        return self._delta(text, released, error)

    def _delta(
        self, text: str, tokens: list[int], error: tuple[str, str] | None = None
    ) -> wire.Delta:
        request = self._request
        logprobs: list[wire.TokenLogprob] | None = None
        if request.params.n_logprobs is not None:
            logprobs = [self._logprobs.popleft() for _ in tokens if self._logprobs]
        first, self._first = self._first, False
        if first and self._echo is not None:
            text = self._echo + text
            tokens = request.tokens[: request.n_prompt] + tokens
            if logprobs is not None:
                logprobs = self._scored + logprobs
        usage = None
        if first or self.finish is not None:
            usage = wire.Usage(
                request.n_prompt, self._n_output, request.n_cached, request.n_preempted
            )
        return wire.Delta(
            rid=request.id,
            text=text,
            tokens=tokens,
            logprobs=logprobs,
            finish=self.finish,
            usage=usage,
            started_seconds=request.started_seconds if first else None,
            error=error,
            stopped_by=self.stopped_by,
        )
