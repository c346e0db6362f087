"""POST /v1/completions: text or token ids in, text out, in OpenAI's dialect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import msgspec
from aiohttp import web

from hearthd import wire
from hearthd.api import body, refusals, submission
from hearthd.api.answering import Answer, Head
from hearthd.api.constraints import constraint_of
from hearthd.api.deltas import stop_reason
from hearthd.api.logprobs import LegacyLogprobs, LegacyWriter
from hearthd.api.schema import CompletionRequest

_decoder = msgspec.json.Decoder(CompletionRequest)


class Choice(msgspec.Struct, frozen=True):
    """One text, or what a stream adds to it."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None = None  # vLLM's: the stop string or token


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, and each chunk of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[Choice]
    usage: msgspec.Struct | msgspec.UnsetType | None = msgspec.UNSET


async def completions(request: web.Request) -> web.StreamResponse:
    """Answer one request; prompt i has the choices i*n to i*n + n - 1."""
    arrived_seconds = time.monotonic()
    asked = await body.read(request, _decoder)
    refusals.refuse(asked, refusals.COMPLETION)
    n = asked.n or 1
    if asked.best_of is not None and asked.best_of != n:
        raise refusals.unsupported("best_of", "is served only where it equals n")
    prompts = submission.prompts_of(asked.prompt)
    submission.check_choices(len(prompts), n)
    await submission.check_copies(request, n)
    include_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    answer = Answer(
        request,
        CompletionReply(asked, n_choices=len(prompts) * n, include_usage=include_usage),
        model=asked.model,
        frames=_frames(asked, prompts, n, arrived_seconds),
        n_prompts=len(prompts),
        id_prefix="cmpl",
        seeded=asked.seed is not None,
        service_tier=asked.service_tier,
    )
    if asked.stream:
        return await answer.stream(include_usage=include_usage)
    return await answer.whole()


def _frames(
    asked: CompletionRequest,
    prompts: Sequence[str | list[int]],
    n: int,
    arrived_seconds: float,
) -> list[wire.Submit]:
    max_tokens = asked.max_tokens
    submissions = submission.Submissions(
        asked,
        max_tokens=submission.DEFAULT_COMPLETION_TOKENS if max_tokens is None else max_tokens,
        n_logprobs=asked.logprobs,
        arrived_seconds=arrived_seconds,
        echo=bool(asked.echo),
        constraint=constraint_of(asked),
    )
    add_special = asked.add_special_tokens is not False
    return [
        submissions.frame(choice, text=prompt, add_special=add_special)
        if isinstance(prompt, str)
        else submissions.frame(choice, tokens=prompt)
        for prompt in prompts
        for choice in range(n)
    ]


class CompletionReply:
    """Words one completion."""

    def __init__(self, asked: CompletionRequest, *, n_choices: int, include_usage: bool) -> None:
        self._head = Head("", 0, "")
        self._stop_token_ids = frozenset(asked.stop_token_ids or ())
        wants_logprobs = asked.logprobs is not None
        self._logprobs = [LegacyWriter() for _ in range(n_choices)] if wants_logprobs else []
        # OpenAI's chunks have a usage of null where the last one will have it, and none otherwise.
        self._no_usage: msgspec.UnsetType | None = None if include_usage else msgspec.UNSET

    def begin(self, head: Head) -> None:
        """The answer starts."""
        self._head = head

    def chunks(self, choice: int, delta: wire.Delta) -> Sequence[msgspec.Struct]:
        """One chunk, or none where nothing can be shown yet."""
        if not (delta.text or delta.finish or delta.logprobs):
            return ()
        return (self._completion([self._choice(choice, delta)], self._no_usage),)

    def last_chunk(self, usage: msgspec.Struct) -> msgspec.Struct:
        """No choices, and the usage."""
        return self._completion([], usage)

    def whole(self, choices: Sequence[wire.Delta], usage: msgspec.Struct) -> msgspec.Struct:
        """All choices, in order."""
        return self._completion([self._choice(i, delta) for i, delta in enumerate(choices)], usage)

    def _choice(self, index: int, delta: wire.Delta) -> Choice:
        return Choice(
            index=index,
            text=delta.text,
            logprobs=self._logprobs[index].write(delta) if self._logprobs else None,
            finish_reason=delta.finish,
            stop_reason=stop_reason(delta, self._stop_token_ids),
        )

    def _completion(
        self, choices: list[Choice], usage: msgspec.Struct | msgspec.UnsetType | None
    ) -> Completion:
        head = self._head
        return Completion(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            choices=choices,
            usage=usage,
        )
