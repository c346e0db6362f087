"""Intrusion: a long prompt arrives among streams, and what their readers notice of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from random import Random

from hearth_bench.client import Client, Record
from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.load import LoadResult, request_body
from hearth_bench.prompts import random_ids
from hearth_bench.quiet import quiet_collector
from hearth_bench.report import Report, make_report
from hearth_bench.stats import summarize
from hearth_bench.work import Work

SETTLED_CHUNKS = 16
"""Of every stream, before the long prompt is sent."""
_LOOK_SECONDS = 0.002


async def run_intrusion(endpoint: Endpoint, work: Work, intruder_tokens: int) -> Report:
    """Streams as `work` says, and one prompt of `intruder_tokens` (ids) that wants a single token.

    Only gaps between chunks that touch the time from sending the prompt to its token count; they are
    the report's, and its TTFT is that of the long prompt. Raises EndpointError where a stream ends
    too early.
    """
    async with endpoint.session(work.timeout_seconds) as session:
        model = work.model or await endpoint.first_model(session)
        client = Client(endpoint, session, chat=False)
        rng = Random(work.seed)
        own = replace(work, model=model)

        def body(n_prompt: int, n_output: int) -> dict[str, object]:
            prompt = random_ids(rng, n_prompt, work.id_range)
            return request_body(replace(own, output_tokens=n_output), model, prompt, [])

        records = [Record(0.0) for _ in range(work.concurrency)]
        streams = [
            asyncio.create_task(client.send(body(work.prompt_tokens, work.output_tokens), record))
            for record in records
        ]
        try:
            with quiet_collector():
                settled = [SETTLED_CHUNKS] * len(records)
                await _until(streams, records, settled)
                cpu = time.process_time()
                intruder = await client.send(body(intruder_tokens, 1))
                cpu = time.process_time() - cpu
                await _until(streams, records, [len(r.chunk_seconds) + 1 for r in records])
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
    if intruder.error is not None or intruder.ttft_seconds is None:
        raise EndpointError(f"the long prompt failed: {intruder.error}")
    window = (intruder.sent_seconds, intruder.chunk_seconds[0])
    seen = [between(record, *window) for record in records]
    report = make_report(LoadResult(endpoint.name, model, own, seen, window, cpu))
    return replace(report, ttft_seconds=summarize([intruder.ttft_seconds]), e2e_seconds=None)


async def _until(
    streams: list[asyncio.Task[Record]], records: list[Record], n_chunks: list[int]
) -> None:
    """Wait until every stream has so many chunks; raises EndpointError if one ends before."""
    while any(len(r.chunk_seconds) < n for r, n in zip(records, n_chunks, strict=True)):
        for stream, record in zip(streams, records, strict=True):
            if stream.done():
                raise EndpointError(
                    f"a stream ended after {len(record.chunk_seconds)} chunks"
                    f" ({stream.result().error or stream.result().finish}): give it more tokens"
                )
        await asyncio.sleep(_LOOK_SECONDS)


def between(record: Record, began: float, ended: float) -> Record:
    """The part of a stream whose gaps touch a span of time: a chunk more on either side."""
    chunks = record.chunk_seconds
    before = [at for at in chunks if at <= began][-1:]
    within = [at for at in chunks if began < at < ended]
    after = [at for at in chunks if at >= ended][:1]
    return Record(
        sent_seconds=record.sent_seconds,
        chunk_seconds=[*before, *within, *after],
        ended_seconds=ended,
    )
