"""Hundreds of clients that go at any moment: every place and all memory come back, and the numbers agree."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hearthd_process import Daemon, running

CONCURRENCY = 6
N_CLIENTS = 200
SIDE_BY_SIDE = 24
CONFIG = f"""
[models.sim]
path = "sim:latency_ms=3"
context = 512
kv_tokens = 2048
concurrency = {CONCURRENCY}
step_tokens = 64
[models.slow]
path = "sim:latency_ms=500"
context = 512
concurrency = 1
step_tokens = 32
"""
CANARY = f"""
[models.canary]
path = "builtin:canary"
threads = 1
context = 512
kv_tokens = 2048
concurrency = {CONCURRENCY}
"""
HAS_LLAMA = find_spec("llama_cpp") is not None
MODELS = [
    "sim",
    pytest.param(
        "canary",
        marks=pytest.mark.skipif(not HAS_LLAMA, reason="llama-cpp-python is not installed"),
    ),
]
WORDS = ("the", "fire", "burns", "low", "and", "one", "more", "log", "keeps", "warm")


@pytest.fixture(scope="module")
def box() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        config = Path(folder) / "hearthd.toml"
        config.write_text(CONFIG + (CANARY if HAS_LLAMA else ""))
        with running(Path(folder), "--config", str(config)) as daemon:
            daemon.until_ready()
            yield daemon


# --- clients -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Visit:
    """What one client asks for, and when it goes."""

    path: str
    body: dict[str, Any]
    over_unix: bool
    sends: float  # part of its request
    waits_seconds: float  # before it reads
    reads_bytes: int | None  # before it goes; None: to the end
    resets: bool  # it does not even say goodbye


def visit(model: str, random: Random) -> Visit:
    """A client like many, who may go while it asks, waits, has its prompt read, or is answered."""
    text = " ".join(random.choices(WORDS, k=random.choice((2, 10, 60))))
    is_chat = random.random() < 0.5
    body: dict[str, Any] = {
        "model": model,
        "stream": random.random() < 0.6,
        "max_tokens": random.choice((1, 20, 100)),
        "temperature": 1,
        "ignore_eos": True,
    }
    if random.random() < 0.15:
        del body["ignore_eos"]
        body["guided_regex"] = "[a-z ]{40,90}"
    body |= {"messages": [{"role": "user", "content": text}]} if is_chat else {"prompt": text}
    moment = random.choice(("asking", "at once", "soon", "later", "reading", "reading", "never"))
    waits = {"soon": random.uniform(0, 0.03), "later": random.uniform(0, 0.3)}
    return Visit(
        path="/v1/chat/completions" if is_chat else "/v1/completions",
        body=body,
        over_unix=random.random() < 0.3,
        sends=random.uniform(0.1, 0.99) if moment == "asking" else 1.0,
        waits_seconds=waits.get(moment, 0.0),
        reads_bytes={"reading": random.randrange(1, 4000), "never": None}.get(moment, 0),
        resets=random.random() < 0.3,
    )


async def pay(box: Daemon, asked: Visit) -> bytes:
    """Ask, and go when the time has come; what was read."""
    if asked.over_unix:
        reader, writer = await asyncio.open_unix_connection(str(box.socket))
    else:
        host, _, port = box.address().rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
    try:
        data = json.dumps(asked.body).encode()
        head = f"POST {asked.path} HTTP/1.1\r\nHost: box\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        data = head.encode() + data
        writer.write(data[: int(len(data) * asked.sends)])
        await writer.drain()
        await asyncio.sleep(asked.waits_seconds)
        read = b""
        while asked.reads_bytes is None or len(read) < asked.reads_bytes:
            received = await reader.read(4096 if asked.reads_bytes is None else 256)
            if not received:
                break
            read += received
        return read
    finally:
        if asked.resets and not asked.over_unix:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


@asynccontextmanager
async def streaming(box: Daemon, model: str, text: str, **fields: Any) -> AsyncIterator[Any]:
    """The lines of a stream, as they come."""
    reader, writer = await asyncio.open_unix_connection(str(box.socket))
    body = {"model": model, "prompt": text, "stream": True, "ignore_eos": True, **fields}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: box\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        yield reader
    finally:
        writer.close()


async def first_event(reader: asyncio.StreamReader) -> float:
    """When the first piece of an answer came."""
    async with asyncio.timeout(30):
        await reader.readuntil(b"data: ")
    return time.monotonic()


# --- what the box says ---------------------------------------------------------------------------


def metrics(box: Daemon) -> dict[str, float]:
    connection = HTTPConnection(box.address(), timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def of_model(samples: dict[str, float], name: str, model: str) -> Counter[str]:
    """Samples of one model by the label `outcome`."""
    found: Counter[str] = Counter()
    for sample, value in samples.items():
        if sample.startswith(name + "{") and f'model="{model}"' in sample:
            label = re.search(r'outcome="(\w+)"', sample)
            found[label[1] if label else ""] += int(value)
    return found


def gauge(box: Daemon, name: str, model: str) -> int:
    return sum(of_model(metrics(box), name, model).values())


def n_there(box: Daemon, model: str) -> int:
    """Requests that run or wait."""
    return sum(gauge(box, f"hearth_{state}_requests", model) for state in ("running", "waiting"))


async def until_idle(box: Daemon, model: str, kv_tokens: int) -> None:
    """Nothing runs or waits at once; the engine tells of its memory each second."""
    await asyncio.to_thread(box.until, lambda: not n_there(box, model))
    await asyncio.to_thread(
        box.until, lambda: gauge(box, "hearth_kv_free_tokens", model) == kv_tokens
    )


# --- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
async def test_two_hundred_clients_that_go(box: Daemon, model: str) -> None:
    random = Random(f"two hundred, {model}")
    await asyncio.to_thread(box.until, lambda: gauge(box, "hearth_kv_free_tokens", model) > 0)
    kv_tokens = gauge(box, "hearth_kv_free_tokens", model)
    assert kv_tokens >= 2048
    question = {"model": model, "prompt": "the house", "max_tokens": 12, "temperature": 0}
    expected = box.get("/v1/completions", question)[1]["choices"]
    before = of_model(metrics(box), "hearth_requests_total", model)
    pid = box.model(model)["engine_pid"]
    gate = asyncio.Semaphore(SIDE_BY_SIDE)
    visits = [visit(model, random) for _ in range(N_CLIENTS)]

    async def one(asked: Visit) -> bytes:
        async with gate:
            return await pay(box, asked)

    async with asyncio.timeout(100):
        answers = await asyncio.gather(*map(one, visits))
    await until_idle(box, model, kv_tokens)

    stayed = [(v, a) for v, a in zip(visits, answers, strict=True) if v.reads_bytes is None]
    assert len(stayed) > N_CLIENTS // 20
    for asked, answer in stayed:
        assert answer.startswith(b"HTTP/1.1 200")
        assert (b"data: [DONE]" in answer) == asked.body["stream"]

    outcomes = of_model(metrics(box), "hearth_requests_total", model) - before
    n_asked = sum(asked.sends == 1.0 for asked in visits)
    assert set(outcomes) <= {"length", "stop", "cancelled"}
    assert outcomes["cancelled"] > N_CLIENTS // 5
    assert len(stayed) <= outcomes["length"] + outcomes["stop"]
    assert sum(outcomes.values()) <= n_asked
    assert (box.model(model)["engine_pid"], box.model(model)["n_restarts"]) == (pid, 0)
    assert box.get("/v1/completions", question)[1]["choices"] == expected
    await every_slot_is_free(box, model)
    await until_idle(box, model, kv_tokens)


async def every_slot_is_free(box: Daemon, model: str) -> None:
    """As many as run at once begin, though none of them ends."""
    running = [streaming(box, model, f"{i} is the one", max_tokens=300) for i in range(CONCURRENCY)]
    readers = [await stream.__aenter__() for stream in running]
    await asyncio.gather(*map(first_event, readers))
    for stream in running:
        await stream.__aexit__(None, None, None)


@pytest.mark.parametrize("moment", ["its prompt is read", "answered"])
async def test_the_next_begins_within_a_step(box: Daemon, moment: str) -> None:
    """The first holds the only place for minutes, unless its leaving frees it."""
    step_seconds = 0.5
    long = "x" * 400  # a dozen steps
    first = streaming(box, "slow", long if moment == "its prompt is read" else "x", max_tokens=100)
    reader = await first.__aenter__()
    if moment == "answered":
        await first_event(reader)
    else:
        await asyncio.sleep(1.0)
    async with streaming(box, "slow", "y", max_tokens=1) as second:
        await asyncio.to_thread(box.until, lambda: n_there(box, "slow") == 2)
        left = time.monotonic()
        await first.__aexit__(None, None, None)
        took = await first_event(second) - left
    assert took < 2 * step_seconds + 1.0  # the step under way, its own, and a slow machine
    await asyncio.to_thread(box.until, lambda: not n_there(box, "slow"))
