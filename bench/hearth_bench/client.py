"""Client: sends one request, follows its stream, and notes when what came."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import msgspec

from hearth_bench.endpoint import Endpoint
from hearth_bench.sse import EventStream, Usage

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Record:
    """One request as the client saw it; times are seconds of `time.perf_counter`."""

    sent_seconds: float
    chunk_seconds: list[float] = field(default_factory=list)  # of chunks that said something
    ended_seconds: float = 0.0
    usage: Usage | None = None
    finish: str | None = None
    error: str | None = None  # its kind: "http_429 queue_full", "connection", "truncated"
    text: str = ""
    copied: float | None = None  # of the text it was to repeat, the part that it did repeat

    @property
    def n_output(self) -> int:
        """Tokens as the server counted them, or else chunks."""
        if self.usage is not None and self.usage.completion_tokens:
            return self.usage.completion_tokens
        return len(self.chunk_seconds)

    @property
    def n_prompt(self) -> int | None:
        """Tokens of the prompt as the server counted them."""
        return None if self.usage is None else self.usage.prompt_tokens

    @property
    def ttft_seconds(self) -> float | None:
        """From sending to the first output."""
        return self.chunk_seconds[0] - self.sent_seconds if self.chunk_seconds else None

    @property
    def e2e_seconds(self) -> float:
        """From sending to the last byte."""
        return self.ended_seconds - self.sent_seconds

    @property
    def tpot_seconds(self) -> float | None:
        """Mean time of a token after the first."""
        if self.n_output < 2 or len(self.chunk_seconds) < 2:
            return None
        return (self.chunk_seconds[-1] - self.chunk_seconds[0]) / (self.n_output - 1)

    def as_json(self) -> dict[str, Any]:
        """All that was seen of it, for machines."""
        return {
            "sent_seconds": self.sent_seconds,
            "chunk_seconds": self.chunk_seconds,
            "ended_seconds": self.ended_seconds,
            "n_prompt": self.n_prompt,
            "n_output": self.n_output,
            "finish": self.finish,
            "error": self.error,
        }

    def gaps_seconds(self) -> list[float]:
        """Times between chunks."""
        return [b - a for a, b in pairwise(self.chunk_seconds)]


class Client:
    """Sends requests to one endpoint; keeps the text of answers only where it is asked to."""

    def __init__(
        self,
        endpoint: Endpoint,
        session: aiohttp.ClientSession,
        *,
        chat: bool,
        keep_text: bool = False,
    ) -> None:
        path = "chat/completions" if chat else "completions"
        self._url = f"{endpoint.root}/v1/{path}"
        self._session = session
        self._keep_text = keep_text

    async def send(self, body: dict[str, Any], record: Record | None = None) -> Record:
        """One request from start to end; whatever goes wrong is the record's `error`.

        `record` is filled while the answer comes, for those who watch it.
        """
        payload = _encode(body)
        record = record or Record(0.0)
        record.sent_seconds = time.perf_counter()
        try:
            async with self._session.post(self._url, data=payload) as answer:
                if answer.status == 200:
                    await self._follow(answer, record)
                else:
                    record.error = f"http_{answer.status} {_code(await answer.read())}".rstrip()
        except TimeoutError:
            record.error = "timeout"
        except aiohttp.ClientConnectorError:
            record.error = "connection refused"
        except (aiohttp.ClientError, ConnectionError):
            record.error = "connection lost"
        except msgspec.DecodeError:
            record.error = "malformed event"
        record.ended_seconds = time.perf_counter()
        return record

    async def _follow(self, answer: aiohttp.ClientResponse, record: Record) -> None:
        events = EventStream()
        async for data in answer.content.iter_any():
            now = time.perf_counter()
            for chunk in events.feed(data):
                if chunk.says_something:
                    record.chunk_seconds.append(now)
                    if self._keep_text:
                        record.text += chunk.text
                record.usage = chunk.usage or record.usage
                record.finish = chunk.finish or record.finish
                if chunk.error is not None:
                    record.error = f"stream {_code_of(chunk.error)}".rstrip()
        if record.error is None and not events.done and record.finish is None:
            record.error = "truncated"


def _code(body: bytes) -> str:
    """The code in an error's JSON body, or nothing."""
    try:
        found: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ""
    return _code_of(found.get("error") if isinstance(found, dict) else None)


def _code_of(error: Any) -> str:
    if not isinstance(error, dict):
        return ""
    return str(error.get("code") or error.get("type") or "")
