"""Submissions: what a request asks for, as the frames that engines take; one for each choice."""

from __future__ import annotations

import secrets
from typing import Any

from aiohttp import web

from hearthd import wire
from hearthd.api.carriable import check_carriable
from hearthd.api.schema import MAX_CHOICES, GenerationFields, Prompt
from hearthd.errors import BodyTooLarge, InvalidRequest

_SEEDS = 1 << 64
_GOLDEN = (
    0x9E3779B97F4A7C15  # 2^64 over the golden ratio: steps that never come close to each other
)

DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's default of max_tokens in /v1/completions."""

_RESERVED = ("messages", "add_generation_prompt", "tools")


def derive_seed(seed: int, choice: int) -> int:
    """The seed of one of n choices: the first has the client's own, so that n does not change it."""
    return (seed + choice * _GOLDEN) % _SEEDS


def prompts_of(prompt: Prompt, field: str = "prompt") -> list[str | list[int]]:
    """The texts of a request: one string or token list, or many; raises InvalidRequest."""
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise InvalidRequest(f"{field}: is empty", param=field)
    kinds = {type(item) for item in prompt}
    if len(kinds) > 1:
        raise InvalidRequest(
            f"{field}: must be a string, a list of strings, a list of token ids, or a list of lists of "
            "token ids, and not a mixture",
            param=field,
        )
    if kinds == {int}:
        return [[item for item in prompt if isinstance(item, int)]]
    return [item for item in prompt if not isinstance(item, int)]


def check_choices(n_prompts: int, n: int) -> None:
    """Raise InvalidRequest where prompts times n is over the limit."""
    if n_prompts * n > MAX_CHOICES:
        raise InvalidRequest(
            f"n: {n_prompts} prompts of {n} choices are {n_prompts * n}; "
            f"a request has at most {MAX_CHOICES}",
            param="n",
        )


async def check_copies(request: web.Request, n: int) -> None:
    """Raise BodyTooLarge where n copies of the body are over its limit: each choice is a frame."""
    n_bytes, limit = len(await request.read()), request.client_max_size
    if n * n_bytes > limit:
        raise BodyTooLarge(
            f"n: {n} choices of a request of {n_bytes} bytes are over the limit of {limit} bytes",
            param="n",
        )


def check_limits(asked: GenerationFields, max_tokens: int | None) -> None:
    """Raise InvalidRequest where two fields contradict each other."""
    if asked.min_tokens and max_tokens is not None and asked.min_tokens > max_tokens:
        raise InvalidRequest(
            f"min_tokens: {asked.min_tokens} is over the {max_tokens} of max_tokens",
            param="min_tokens",
        )
    if asked.stream_options is not None and not asked.stream:
        raise InvalidRequest(
            "stream_options: is allowed only with stream = true", param="stream_options"
        )


def template_arguments(asked: dict[str, Any] | None) -> dict[str, Any]:
    """Further variables of the chat template; raises InvalidRequest, also for the engine's own names."""
    if not asked:
        return {}
    for name in asked:
        if name in _RESERVED:
            field = f"chat_template_kwargs.{name}"
            raise InvalidRequest(f"{field}: is set by the engine", param=field)
    check_carriable(asked, "chat_template_kwargs")
    return asked


class Submissions:
    """Makes the frames of one request; all but prompt, choice and logprobs is the same in each."""

    def __init__(
        self,
        asked: GenerationFields,
        *,
        max_tokens: int | None,
        n_logprobs: int | None,
        arrived_seconds: float,
        echo: bool = False,
        constraint: wire.Constraint | None = None,
        calls_tools: bool = False,
    ) -> None:
        check_limits(asked, max_tokens)
        self._constraint = constraint
        self._calls_tools = calls_tools
        self._asked = asked
        self._max_tokens = max_tokens
        self._n_logprobs = n_logprobs
        self._arrived_seconds = arrived_seconds
        self._echo = echo
        self._seed = (secrets.randbits(64) if asked.seed is None else asked.seed) % _SEEDS

    def frame(
        self,
        choice: int,
        *,
        text: str | None = None,
        tokens: list[int] | None = None,
        messages: list[dict[str, Any]] | None = None,
        template_args: dict[str, Any] | None = None,
        add_special: bool = True,
    ) -> wire.Submit:
        """The frame of choice `choice` of one prompt."""
        asked = self._asked
        return wire.Submit(
            rid=0,
            sampling=self._sampling(choice),
            text=text,
            tokens=tokens,
            messages=messages,
            template_args=template_args or {},
            add_special=add_special,
            max_tokens=self._max_tokens,
            min_tokens=asked.min_tokens or 0,
            stop=[asked.stop] if isinstance(asked.stop, str) else asked.stop or [],
            stop_token_ids=asked.stop_token_ids or [],
            ignore_eos=bool(asked.ignore_eos),
            include_stop=bool(asked.include_stop_str_in_output),
            echo=self._echo,
            prompt_logprobs=self._n_logprobs if self._echo else None,
            arrived_seconds=self._arrived_seconds,
            constraint=self._constraint,
            calls_tools=self._calls_tools,
        )

    def _sampling(self, choice: int) -> wire.Sampling:
        asked = self._asked
        # top_p 0 keeps the best token alone; the written definition has no room for it above 0.
        only_best = asked.top_p == 0
        return wire.Sampling(
            temperature=_given(asked.temperature, 1.0),
            top_k=1 if only_best else max(0, asked.top_k or 0),
            top_p=1.0 if only_best else _given(asked.top_p, 1.0),
            min_p=_given(asked.min_p, 0.0),
            repetition_penalty=_given(asked.repetition_penalty, 1.0),
            presence_penalty=_given(asked.presence_penalty, 0.0),
            frequency_penalty=_given(asked.frequency_penalty, 0.0),
            logit_bias=sorted((asked.logit_bias or {}).items()),
            seed=derive_seed(self._seed, choice),
            n_logprobs=self._n_logprobs,
        )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
