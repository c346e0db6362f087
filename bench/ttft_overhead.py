#!/usr/bin/env python3
"""What HTTP, IPC, template and tokenizing add to the time to the first token at one request.

The same chat goes in turn to hearthd over HTTP and to an EngineCore in this process, where it is
rendered and tokenized before the clock starts. The difference of the two is what everything around
the engine adds: parsing, admission, a look into the cache of answers, both socket hops, template, tokenizer,
SSE, and the client itself, which keeps its connection. Each chat is new, so nothing is cached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

from hearth_bench.client import Client
from hearth_bench.daemon import plan_daemon
from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.prompts import random_words
from hearth_bench.quiet import quiet_collector
from hearth_bench.server import running
from hearth_bench.stats import Summary, summarize
from hearth_bench.stepping import EngineStepper, engine_load

TARGET_SECONDS = 0.003
_PAUSE_SECONDS = 0.02  # lets the threads of the side that has just run go to sleep
NAME = "bench"


@dataclass(frozen=True, slots=True)
class Overhead:
    """Seconds of the two sides; `added` is the difference, chat by chat."""

    prompt_tokens: float
    client: Summary
    engine: Summary
    added: Summary


def main(argv: list[str] | None = None) -> int:
    """Measure and print; with --check, 1 when the median misses its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file whose answers begin with text")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--chats", type=int, default=60)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--cmd", help="how to start hearthd (default: this Python)")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    load = engine_load(given.model, n_seq=4, context=given.context, threads=given.threads)
    settings = [
        f"models.{NAME}.{key}={value}"
        for key, value in (
            ("context", load.context),
            ("concurrency", load.concurrency),
            ("kv_tokens", load.kv_tokens),
            ("threads", load.threads),
        )
    ]
    engine = EngineStepper(load)
    try:
        with tempfile.TemporaryDirectory() as folder:
            daemon = plan_daemon(Path(folder), f"{NAME}={given.model}", settings, given.cmd)
            with running(daemon.command, daemon.endpoint, daemon.log):
                overhead = asyncio.run(
                    _measure(engine, daemon.endpoint, given.prompt_tokens, given.chats)
                )
    except (EndpointError, OSError) as error:
        print(f"ttft_overhead.py: {error}", file=sys.stderr)
        return 2
    finally:
        engine.close()
    print(json.dumps(asdict(overhead), indent=2) if given.json else _as_text(overhead))
    return 1 if given.check and overhead.added.p50 > TARGET_SECONDS else 0


async def _measure(
    engine: EngineStepper, endpoint: Endpoint, prompt_tokens: int, n_chats: int
) -> Overhead:
    rng = Random(0)
    client_seconds: list[float] = []
    engine_seconds: list[float] = []
    counts: list[int] = []
    async with endpoint.session(60.0, as_clients_do=True) as session:
        client = Client(endpoint, session, chat=True)
        with quiet_collector():
            for i in range(n_chats + 2):
                messages = _chat(engine, rng, prompt_tokens)
                record = await client.send(_body(messages))
                if record.error or record.ttft_seconds is None:
                    raise EndpointError(
                        f"no first token: {record.error or 'an answer without text'}"
                    )
                await asyncio.sleep(_PAUSE_SECONDS)
                seconds, n_prompt = engine.first_text(messages)
                await asyncio.sleep(_PAUSE_SECONDS)
                if record.n_prompt != n_prompt:
                    raise EndpointError(f"{record.n_prompt} tokens there, {n_prompt} here")
                if i >= 2:  # the first two warm up
                    client_seconds.append(record.ttft_seconds)
                    engine_seconds.append(seconds)
                    counts.append(n_prompt)
    added = [a - b for a, b in zip(client_seconds, engine_seconds, strict=True)]
    summaries = [summarize(values) for values in (client_seconds, engine_seconds, added)]
    client_summary, engine_summary, added_summary = summaries
    assert client_summary is not None
    assert engine_summary is not None
    assert added_summary is not None
    return Overhead(sum(counts) / len(counts), client_summary, engine_summary, added_summary)


def _chat(engine: EngineStepper, rng: Random, prompt_tokens: int) -> list[dict[str, Any]]:
    """A chat of about so many tokens that begins with a number of its own."""
    words = random_words(rng, prompt_tokens).split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high) // 2
        if engine.count_tokens(_messages(words[:middle])) < prompt_tokens:
            low = middle + 1
        else:
            high = middle
    return _messages(words[:low])


def _messages(words: list[str]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"{words[0]}. Repeat: {' '.join(words[1:])}"}]


def _body(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": NAME,
        "messages": messages,
        "max_tokens": 4,
        "min_tokens": 4,
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _as_text(overhead: Overhead) -> str:
    def row(name: str, summary: Summary) -> str:
        return (
            f"{name:<28}{summary.p50 * 1000:>9.2f}{summary.p95 * 1000:>9.2f}"
            f"{summary.mean * 1000:>9.2f}"
        )

    return "\n".join(
        [
            f"{overhead.client.n} chats of {overhead.prompt_tokens:.0f} tokens, one at a time",
            f"{'ms':<28}{'p50':>9}{'p95':>9}{'mean':>9}",
            row("TTFT at the client", overhead.client),
            row("first text of the engine", overhead.engine),
            row("added", overhead.added) + f"   target: p50 <= {TARGET_SECONDS * 1000:.0f}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
