"""Load: drives one endpoint with a given work and gathers a record of each request."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, replace
from itertools import takewhile
from random import Random
from typing import Any

from hearth_bench.client import Client, Record
from hearth_bench.endpoint import Endpoint
from hearth_bench.prompts import (
    Prompt,
    ServerTokenizer,
    invented_words,
    random_ids,
    random_words,
    text_of_length,
)
from hearth_bench.quiet import quiet_collector
from hearth_bench.work import Work


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one load saw; `window` is the span of time that throughput counts."""

    endpoint: str
    model: str
    work: Work
    records: list[Record]
    window: tuple[float, float]
    client_cpu_seconds: float


class Conversation:
    """A dialogue whose next turn repeats all that was said."""

    def __init__(self, prompts: list[Prompt]) -> None:
        self._left = deque(prompts)
        self.messages: list[dict[str, Any]] = []

    @property
    def is_over(self) -> bool:
        """Whether every turn has been asked."""
        return not self._left

    def ask(self) -> Prompt:
        """The next turn's prompt; in a chat it has joined `messages`."""
        prompt = self._left.popleft()
        self.messages.append({"role": "user", "content": prompt})
        return prompt

    def hear(self, text: str) -> None:
        """The assistant's answer joins the dialogue."""
        self.messages.append({"role": "assistant", "content": text})


class PromptSource:
    """Prompts of one load, the same for every endpoint that is given the same work."""

    def __init__(self, work: Work, tokenizer: ServerTokenizer) -> None:
        self._work = work
        self._tokenizer = tokenizer
        self._rng = Random(work.seed)
        self._head: Prompt | None = None

    async def conversation(self) -> Conversation:
        """A fresh one; only its first turn begins with the shared prefix."""
        prompts = [await self._prompt(first=turn == 0) for turn in range(self._work.turns)]
        return Conversation(prompts)

    async def _prompt(self, *, first: bool) -> Prompt:
        work = self._work
        if self._head is None:
            self._head = await self._shared()
        if work.tokenizer == "ids":
            assert isinstance(self._head, list)
            head = self._head if first else []
            return head + random_ids(self._rng, work.prompt_tokens - len(head), work.id_range)
        assert isinstance(self._head, str)
        head_text = " ".join(filter(None, (work.order, self._head if first else "")))
        words = invented_words if work.order else random_words
        return await text_of_length(self._rng, work.prompt_tokens, self._count, head_text, words)

    async def _shared(self) -> Prompt:
        work = self._work
        if work.tokenizer == "ids":
            return random_ids(self._rng, work.shared_tokens, work.id_range)
        if not work.shared_tokens:
            return ""
        return await text_of_length(self._rng, work.shared_tokens, self._count)

    async def _count(self, text: str) -> int:
        return await self._tokenizer.count(text, add_special=not self._work.chat)


class Load:
    """One work against one endpoint; clients take conversations in turn, one request at a time."""

    def __init__(self, endpoint: Endpoint, work: Work, model: str, client: Client) -> None:
        self._endpoint = endpoint
        self._work = work
        self._model = model
        self._client = client
        self._open: deque[Conversation] = deque()  # those that wait for their next turn
        self._fresh: deque[Conversation] = deque()
        self._n_left = 0
        self._until = float("inf")
        self._records: list[Record] = []

    async def run(self, source: PromptSource) -> LoadResult:
        """Prepare the prompts, then measure."""
        work = self._work
        n_chats = max(work.n_chats or 0, work.concurrency)
        n_requests = work.n_requests
        n_ahead = n_chats if n_requests is None else -(-n_requests // work.turns)
        self._fresh.extend([await source.conversation() for _ in range(n_ahead)])
        self._open.extend(self._fresh.popleft() for _ in range(min(n_chats, len(self._fresh))))
        self._n_left = n_requests if n_requests is not None else 1 << 62
        with quiet_collector():
            cpu, began = time.process_time(), time.perf_counter()
            if work.seconds is not None:
                self._until = began + work.seconds
            await asyncio.gather(*(self._work_off(source) for _ in range(work.concurrency)))
            ended, cpu = time.perf_counter(), time.process_time() - cpu
        end = min(self._until, ended)
        return LoadResult(self._endpoint.name, self._model, work, self._records, (began, end), cpu)

    async def _work_off(self, source: PromptSource) -> None:
        """One client: the conversation that has waited longest gets its next turn."""
        while self._n_left > 0 and time.perf_counter() < self._until:
            if not self._open:
                if self._work.n_requests is not None:
                    return  # the last conversations are in other hands
                self._open.append(await source.conversation())
            self._n_left -= 1
            conversation = self._open.popleft()
            await self._turn(conversation)
            if not conversation.is_over:
                self._open.append(conversation)
            elif self._fresh:
                self._open.append(self._fresh.popleft())
            if self._work.pause_seconds:
                await asyncio.sleep(self._work.pause_seconds)

    async def _turn(self, conversation: Conversation) -> None:
        prompt = conversation.ask()
        record = await self._client.send(
            request_body(self._work, self._model, prompt, conversation.messages)
        )
        if self._work.order and isinstance(prompt, str):
            record.copied = copied(prompt.removeprefix(self._work.order).strip(), record.text)
        self._records.append(record)
        conversation.hear(record.text)


def copied(given: str, answer: str) -> float:
    """How much of a text an answer repeats, from its start to the first letter that differs."""
    pairs = zip(given, answer.lstrip(), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) / max(1, len(given))


def request_body(
    work: Work, model: str, prompt: Prompt, messages: list[dict[str, Any]]
) -> dict[str, Any]:
    """One request as JSON; `ignore_eos` and `min_tokens` keep the output at its length."""
    body: dict[str, Any] = {"model": model}
    if work.chat:
        body["messages"] = messages
    else:
        body["prompt"] = prompt
    body |= {
        "max_tokens": work.output_tokens,
        "temperature": work.temperature,
        "seed": work.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if not work.plain:
        body |= {"ignore_eos": True, "min_tokens": work.output_tokens}
    return body | work.extra


async def run_load(endpoint: Endpoint, work: Work) -> LoadResult:
    """Warm up, then measure; raises EndpointError where the server cannot do the work at all.

    Warm-up prompts differ from all that is measured, so that no prefix cache knows those.
    """
    async with endpoint.session(work.timeout_seconds) as session:
        model = work.model or await endpoint.first_model(session)
        client = Client(
            endpoint, session, chat=work.chat, keep_text=work.turns > 1 or bool(work.order)
        )
        tokenizer = ServerTokenizer(endpoint, session, model)
        if work.n_warmup:
            warm = replace(
                work,
                n_requests=work.n_warmup,
                seconds=None,
                turns=1,
                n_chats=None,
                seed=-1 - work.seed,
                concurrency=min(work.concurrency, work.n_warmup),
            )
            await Load(endpoint, warm, model, client).run(PromptSource(warm, tokenizer))
        return await Load(endpoint, work, model, client).run(PromptSource(work, tokenizer))
