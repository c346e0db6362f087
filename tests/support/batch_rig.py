"""BatchRig: a server with batches in this process, over a Serving whose answers a test scripts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from api_server import ApiServer
from fake_serving import FakeServing, spell
from openai import AsyncOpenAI
from openai.types import Batch

from hearthd import wire
from hearthd.access.keyring import Keyring
from hearthd.batch.counts import BatchCollector
from hearthd.batch.disk import Disk
from hearthd.batch.owners import Owners
from hearthd.batch.service import Batches
from hearthd.config.schema import BatchConfig, KeyConfig
from hearthd.telemetry.metrics import Metrics

WAIT_SECONDS = 30.0
CHAT = "/v1/chat/completions"


class Gate:
    """Lets a number of requests through; the others wait."""

    def __init__(self, n: int) -> None:
        self._places = asyncio.Semaphore(n)

    async def script(self, submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        await self._places.acquire()
        async for delta in spell("ok")(submit):
            yield delta

    def open(self, n: int = 10_000) -> None:
        for _ in range(n):
            self._places.release()


def line(custom_id: str, text: str = "Q", url: str = CHAT, **body: Any) -> dict[str, Any]:
    """One request."""
    asked = {"model": "canary", "messages": [{"role": "user", "content": text}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": asked}


def lines(*requests: dict[str, Any] | bytes) -> bytes:
    """A file of requests; bytes are taken as they are."""
    return b"".join(
        (request if isinstance(request, bytes) else json.dumps(request).encode()) + b"\n"
        for request in requests
    )


def records(text: str | bytes) -> list[dict[str, Any]]:
    """What stands in a file of answers."""
    return [json.loads(row) for row in text.splitlines()]


def make_batches(
    folder: Path,
    serving: FakeServing,
    *,
    keys: dict[str, KeyConfig] | None = None,
    config: BatchConfig | None = None,
    disk: Disk | None = None,
    clock: Callable[[], float] | None = None,
) -> Batches:
    """Batches that keep what they have in a folder, and leave nothing free on its disk."""
    options: dict[str, Any] = {} if clock is None else {"clock": clock}
    return Batches(
        folder,
        serving,
        Owners(Keyring(keys)),
        config or BatchConfig(reserve=0),
        most_line_bytes=1 << 20,
        disk=disk,
        **options,
    )


@asynccontextmanager
async def batch_server(
    folder: Path, serving: FakeServing, **options: Any
) -> AsyncIterator[tuple[ApiServer, AsyncOpenAI]]:
    """A server, and the official client of it."""
    keys = options.get("keys")
    batches = make_batches(folder, serving, **options)
    metrics = Metrics()
    metrics.add(BatchCollector(batches.counts, batches.now))
    async with (
        ApiServer(serving, batches=batches, keyring=Keyring(keys), metrics=metrics) as server,
        server.openai() as client,
    ):
        yield server, client


async def submit(
    client: AsyncOpenAI, content: bytes, endpoint: Any = CHAT, window: Any = "24h", **more: Any
) -> Batch:
    """A new batch of a file with this content."""
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window=window, **more
    )


async def until(
    client: AsyncOpenAI, batch: Batch, *statuses: str, holds: Callable[[Batch], bool] | None = None
) -> Batch:
    """Wait until it has one of these statuses, or until something else holds."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            batch = await client.batches.retrieve(batch.id)
            if batch.status in statuses or (holds is not None and holds(batch)):
                return batch
            await asyncio.sleep(0.02)


async def results(client: AsyncOpenAI, batch: Batch) -> tuple[list[Any], list[Any]]:
    """Its answers and its errors."""
    found: list[Sequence[Any]] = []
    for file_id in (batch.output_file_id, batch.error_file_id):
        content = b"" if file_id is None else (await client.files.content(file_id)).content
        found.append(records(content))
    return list(found[0]), list(found[1])
