"""Work: what a load asks of a server, as the command line says it."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Work:
    """Requests of one load; every prompt follows from `seed` alone."""

    model: str | None = None  # None: the first that the server lists
    concurrency: int = 1
    n_requests: int | None = None  # None: until `seconds` are over
    seconds: float | None = None
    prompt_tokens: int = 128
    output_tokens: int = 128
    shared_tokens: int = 0  # at the start of the prompt, the same in every request
    order: str = (
        ""  # text before each prompt: "Repeat:"; how much of the rest comes back is reported
    )
    tokenizer: Literal["ids", "auto"] = "ids"
    id_range: tuple[int, int] = (33, 127)  # token ids of prompts are drawn from [low, high)
    chat: bool = False
    turns: int = 1
    n_chats: int | None = None  # conversations that take turns; None: one for each client
    temperature: float = 0.0
    seed: int = 0
    n_warmup: int = 1
    pause_seconds: float = 0.0  # of a client between an answer and its next request
    plain: bool = False  # leave out fields that OpenAI does not define
    extra: dict[str, Any] = field(default_factory=dict)  # more fields of each request
    timeout_seconds: float = 600.0


def add_work_options(parser: argparse.ArgumentParser) -> None:
    """The options that `work_from` reads."""
    default = Work()
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--requests", type=_positive, help="how many (default: 8 for each client)")
    size.add_argument("--seconds", type=float, help="start requests for so long, then finish them")
    add = parser.add_argument
    add("--model", help="default: the first the server lists")
    add("--concurrency", type=_positive, default=1, help="clients at once")
    add("--prompt-tokens", type=_positive, default=default.prompt_tokens)
    add("--output-tokens", type=_positive, default=default.output_tokens)
    add(
        "--shared-prefix",
        type=_share,
        default=0.0,
        help="what all prompts begin with: a fraction (0.5) or a number of tokens (1000)",
    )
    add(
        "--tokenizer",
        choices=("ids", "auto"),
        help="ids: prompts are token ids; auto: text cut to length by asking /tokenize (chats always are)",
    )
    add(
        "--ids",
        type=_id_range,
        default=default.id_range,
        metavar="LOW:HIGH",
        help="token ids to draw prompts from (default 33:127, sound in every common vocabulary)",
    )
    add(
        "--order",
        default=default.order,
        metavar="TEXT",
        help="what each prompt begins with, such as Repeat:, and report how much is repeated",
    )
    add("--chat", action="store_true", help="/v1/chat/completions instead of /v1/completions")
    add("--turns", type=_positive, default=1, help="turns of each conversation (implies --chat)")
    add("--chats", type=_positive, help="conversations that take turns (default: one a client)")
    add("--temperature", type=float, default=default.temperature)
    add("--seed", type=int, default=default.seed)
    add("--warmup", type=int, default=default.n_warmup, help="requests before the measurement")
    add("--pause", type=float, default=0.0, help="seconds between an answer and the next request")
    add("--plain", action="store_true", help="send neither ignore_eos nor min_tokens")
    add("--extra", type=json.loads, default={}, metavar="JSON", help="more fields of each request")
    add("--timeout", type=float, default=default.timeout_seconds, help="seconds without a byte")


def work_from(given: argparse.Namespace) -> Work:
    """The work that parsed options describe."""
    chat = given.chat or given.turns > 1
    n_requests = given.requests
    if n_requests is None and given.seconds is None:
        n_requests = 8 * given.concurrency * given.turns
    return Work(
        model=given.model,
        concurrency=given.concurrency,
        n_requests=n_requests,
        seconds=given.seconds,
        prompt_tokens=given.prompt_tokens,
        output_tokens=given.output_tokens,
        shared_tokens=shared_tokens(given.shared_prefix, given.prompt_tokens),
        order=given.order,
        tokenizer=given.tokenizer or ("auto" if chat or given.order else "ids"),
        id_range=given.ids,
        chat=chat,
        turns=given.turns,
        n_chats=given.chats,
        temperature=given.temperature,
        seed=given.seed,
        n_warmup=given.warmup,
        pause_seconds=given.pause,
        plain=given.plain,
        extra=given.extra,
        timeout_seconds=given.timeout,
    )


def shared_tokens(share: float, prompt_tokens: int) -> int:
    """A share under 1 is a fraction of the prompt, above it a number of tokens."""
    return min(prompt_tokens, round(share * prompt_tokens) if share < 1 else round(share))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _share(text: str) -> float:
    share = float(text)
    if share < 0 or (share > 1 and share != int(share)):
        raise argparse.ArgumentTypeError(f"{text} is neither a fraction nor a number of tokens")
    return share


def _id_range(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    if not int(low) < int(high):
        raise argparse.ArgumentTypeError(f"{text} is an empty range")
    return int(low), int(high)
