"""POST /v1/chat/completions: messages in, one message out, in OpenAI's dialect."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec
from aiohttp import web

from hearthd import wire
from hearthd.api import body, refusals, submission
from hearthd.api.answering import Answer, Head
from hearthd.api.constraints import constraint_of
from hearthd.api.deltas import stop_reason
from hearthd.api.logprobs import ChatLogprobs, chat_logprobs
from hearthd.api.messages import template_messages
from hearthd.api.schema import ChatRequest
from hearthd.api.tool_answers import (
    CallPart,
    ToolCallAnswer,
    ToolReaders,
    call_part,
    calls_of,
    content_of,
)
from hearthd.api.tool_events import Content
from hearthd.api.tools import ToolUse, tool_use
from hearthd.errors import InvalidRequest

_decoder = msgspec.json.Decoder(ChatRequest)

_MaybeUsage: TypeAlias = msgspec.Struct | msgspec.UnsetType | None


class AnswerMessage(msgspec.Struct, frozen=True):
    """What the assistant says."""

    content: str | None  # null where the answer is nothing but calls
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: list[ToolCallAnswer] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """One whole answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | int | None = None  # vLLM's: the stop string or token


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer in one piece."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: msgspec.Struct


class MessageDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a message."""

    role: str | None = None
    content: str | None = None
    tool_calls: list[CallPart] | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """What a chunk adds to one choice."""

    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | msgspec.UnsetType | None = msgspec.UNSET


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str | None
    choices: Sequence[ChunkChoice]
    usage: _MaybeUsage = msgspec.UNSET


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer one request."""
    arrived_seconds = time.monotonic()
    asked = await body.read(request, _decoder)
    refusals.refuse(asked, refusals.CHAT)
    await submission.check_copies(request, asked.n or 1)
    include_usage = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    output = constraint_of(asked)
    use = tool_use(asked, output)
    answer = Answer(
        request,
        ChatReply(asked, use, include_usage=include_usage),
        model=asked.model,
        frames=_frames(asked, use, output, arrived_seconds),
        n_prompts=1,
        id_prefix="chatcmpl",
        seeded=asked.seed is not None,
        service_tier=asked.service_tier,
    )
    if asked.stream:
        return await answer.stream(include_usage=include_usage)
    return await answer.whole()


def _frames(
    asked: ChatRequest,
    use: ToolUse | None,
    output: wire.Constraint | None,
    arrived_seconds: float,
) -> list[wire.Submit]:
    messages = template_messages(asked.messages)
    template_args = submission.template_arguments(asked.chat_template_kwargs)
    if use is not None:
        template_args = {**template_args, "tools": use.told}
    max_tokens = asked.max_completion_tokens
    submissions = submission.Submissions(
        asked,
        max_tokens=asked.max_tokens if max_tokens is None else max_tokens,
        n_logprobs=_n_logprobs(asked),
        arrived_seconds=arrived_seconds,
        constraint=output if use is None else use.constraint,
        calls_tools=use is not None,
    )
    return [
        submissions.frame(choice, messages=messages, template_args=template_args)
        for choice in range(asked.n or 1)
    ]


def _n_logprobs(asked: ChatRequest) -> int | None:
    if asked.top_logprobs is not None and not asked.logprobs:
        raise InvalidRequest(
            "top_logprobs: is allowed only with logprobs = true", param="top_logprobs"
        )
    return asked.top_logprobs or 0 if asked.logprobs else None


class ChatReply:
    """Words one chat completion."""

    def __init__(self, asked: ChatRequest, use: ToolUse | None, *, include_usage: bool) -> None:
        self._head = Head("", 0, "")
        self._use = use
        self._tools: ToolReaders | None = None
        self._unsaid: dict[int, list[wire.TokenLogprob]] = {}  # of text that is held for a call
        self._stop_token_ids = frozenset(asked.stop_token_ids or ())
        self._wants_logprobs = bool(asked.logprobs)
        self._spoken: set[int] = set()  # choices whose role has been told
        # OpenAI's chunks have a usage of null where the last one will have it, and none otherwise.
        self._no_usage: msgspec.UnsetType | None = None if include_usage else msgspec.UNSET

    def begin(self, head: Head) -> None:
        """The answer starts."""
        self._head = head
        if self._use is not None:
            self._tools = ToolReaders(self._use, head.tool_format, head.id)

    def chunks(self, choice: int, delta: wire.Delta) -> Sequence[msgspec.Struct]:
        """The role before all else, text and calls, and the reason of the end by itself."""
        choices: list[ChunkChoice] = []
        if choice not in self._spoken:
            self._spoken.add(choice)
            choices.append(ChunkChoice(choice, MessageDelta(role="assistant", content="")))
        if self._tools is not None:
            choices += self._read(self._tools, choice, delta)
        elif delta.text or delta.logprobs:
            choices.append(
                ChunkChoice(
                    choice, MessageDelta(content=delta.text), self._logprobs(delta.logprobs)
                )
            )
        if delta.finish is not None:
            by = stop_reason(delta, self._stop_token_ids)
            finish = self._finish(choice, delta)
            choices.append(ChunkChoice(choice, MessageDelta(), None, finish, by))
        return [self._chunk((of_one,), self._no_usage) for of_one in choices]

    def _read(self, tools: ToolReaders, choice: int, delta: wire.Delta) -> list[ChunkChoice]:
        """Text and calls of a delta; log-probabilities go with the first that can be told."""
        said: list[MessageDelta] = []
        for event in tools.read(choice, delta):
            if isinstance(event, Content):
                said.append(MessageDelta(content=event.text))
            elif (part := call_part(event)) is not None:
                said.append(MessageDelta(tool_calls=[part]))
        unsaid = self._unsaid.setdefault(choice, [])
        unsaid += delta.logprobs or ()
        if not said and not (unsaid and delta.finish):
            return []
        first, *others = said or [MessageDelta(content="")]
        self._unsaid[choice] = []
        return [
            ChunkChoice(choice, first, self._logprobs(unsaid)),
            *(ChunkChoice(choice, other) for other in others),
        ]

    def _finish(self, choice: int, delta: wire.Delta) -> str | None:
        if self._tools is None:
            return delta.finish
        return self._tools.finish_reason(choice, delta.finish)

    def last_chunk(self, usage: msgspec.Struct) -> msgspec.Struct:
        """No choices, and the usage."""
        return self._chunk((), usage)

    def whole(self, choices: Sequence[wire.Delta], usage: msgspec.Struct) -> msgspec.Struct:
        """All choices, in order."""
        head = self._head
        return ChatCompletion(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            choices=[
                ChatChoice(
                    index=i,
                    message=self._message(i, delta),
                    logprobs=self._logprobs(delta.logprobs),
                    finish_reason=self._finish(i, delta),
                    stop_reason=stop_reason(delta, self._stop_token_ids),
                )
                for i, delta in enumerate(choices)
            ],
            usage=usage,
        )

    def _message(self, choice: int, delta: wire.Delta) -> AnswerMessage:
        if self._tools is None:
            return AnswerMessage(delta.text)
        events = self._tools.read(choice, delta)
        content, calls = content_of(events), calls_of(events)
        return AnswerMessage(content or None, tool_calls=calls) if calls else AnswerMessage(content)

    def _logprobs(self, entries: Sequence[wire.TokenLogprob] | None) -> ChatLogprobs | None:
        return chat_logprobs(entries or ()) if self._wants_logprobs else None

    def _chunk(self, choices: Sequence[ChunkChoice], usage: _MaybeUsage) -> ChatChunk:
        head = self._head
        return ChatChunk(
            id=head.id,
            created=head.created,
            model=head.model,
            system_fingerprint=head.system_fingerprint,
            choices=choices,
            usage=usage,
        )
