"""Batches of a real daemon: over both sockets, stopped, killed, on a disk that fills, and 5,000 lines with three kills."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from batch_rig import line, lines, records
from hearthd_process import Daemon, running
from openai import APIConnectionError, InternalServerError, OpenAI
from openai.types import Batch

SIM = ("--model", "canary=sim:says=echo,latency_ms=3", "--set", "hardware.checkup=false")
ENCODERS = ("--model", "embed=sim:task=embed", "--model", "rerank=sim:task=rerank")
WAIT_SECONDS = 60.0


@contextmanager
def client_of(daemon: Daemon, *, over_socket: bool = False) -> Iterator[OpenAI]:
    """The official client, which is patient with a daemon that starts."""
    transport = httpx2.HTTPTransport(uds=str(daemon.socket) if over_socket else None)
    with (
        httpx2.Client(transport=transport) as http,
        OpenAI(
            base_url=f"http://{daemon.address()}/v1", api_key="none", http_client=http
        ) as client,
    ):
        yield client


def submit(client: OpenAI, content: bytes, **more: Any) -> Batch:
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        **more,
    )


def until(client: OpenAI, batch: Batch, holds: Callable[[Batch], bool]) -> Batch:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds(batch):
        assert time.monotonic() < deadline, batch
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def is_done(batch: Batch) -> bool:
    return batch.status == "completed"


def n_done(batch: Batch) -> int:
    counts = batch.request_counts
    return 0 if counts is None else counts.completed + counts.failed


def has_done(n: int, batch: Batch) -> bool:
    return n_done(batch) >= n


def answers(client: OpenAI, batch: Batch) -> dict[str, str]:
    """What was answered, by custom_id, each of which there is once."""
    assert batch.output_file_id is not None
    found = records(client.files.content(batch.output_file_id).content)
    by_id = {
        entry["custom_id"]: entry["response"]["body"]["choices"][0]["message"]["content"]
        for entry in found
    }
    assert len(by_id) == len(found)
    return by_id


def many(n: int) -> tuple[bytes, dict[str, str]]:
    """Requests, and what they are answered: what they say."""
    texts = {f"id-{i:05}": f"text {i}" for i in range(n)}
    return lines(*(line(name, text, temperature=0) for name, text in texts.items())), texts


def test_over_the_unix_socket(short_path: Path) -> None:
    content, texts = many(20)
    with running(short_path, *SIM, *ENCODERS) as daemon:
        daemon.until_ready()
        with client_of(daemon, over_socket=True) as client:
            batch = until(client, submit(client, content), is_done)
            assert answers(client, batch) == texts
            vectors = encoded(client, "/v1/embeddings", model="embed", input=["a", "b"])
            assert [len(entry["embedding"]) for entry in vectors["data"]] == [32, 32]
            ranking = encoded(client, "/v1/rerank", model="rerank", query="q", documents=["a", "b"])
            assert {result["index"] for result in ranking["results"]} == {0, 1}
        page = daemon.get("/v1/batches")[1]
        assert page["data"][-1]["id"] == batch.id


def encoded(client: OpenAI, url: str, **body: Any) -> dict[str, Any]:
    """What a batch of one line for an encoder is answered."""
    request = {"custom_id": "e", "method": "POST", "url": url, "body": body}
    file = client.files.create(file=("in.jsonl", lines(request)), purpose="batch")
    endpoint: Any = url
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")
    batch = until(client, batch, is_done)
    assert batch.output_file_id is not None, batch
    (record,) = records(client.files.content(batch.output_file_id).content)
    found: dict[str, Any] = record["response"]["body"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_ends_takes_the_batch_up_again(short_path: Path, number: int) -> None:
    content, texts = many(300)
    with running(short_path, *SIM) as daemon:
        daemon.until_ready()
        with client_of(daemon) as client:
            batch = until(client, submit(client, content), lambda batch: n_done(batch) > 20)
            assert n_done(batch) < 300
        os.kill(daemon.process.pid, number)
        assert daemon.process.wait(20) == (0 if number == signal.SIGTERM else -number)
    with running(short_path, *SIM) as daemon, client_of(daemon) as client:
        batch = until(client, client.batches.retrieve(batch.id), is_done)
        assert answers(client, batch) == texts
        assert batch.error_file_id is None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_fills_and_has_room_again(short_path: Path) -> None:
    state = short_path / "state"
    state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(state)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        content, texts = many(400)
        limits = ("--set", "batch.reserve=0", "--set", "models.canary.prefix_disk=0")
        with running(short_path, *SIM, *limits) as daemon:
            daemon.until_ready()
            with client_of(daemon) as client:
                batch = until(client, submit(client, content), lambda batch: n_done(batch) > 20)
                filler = state / "filler"
                fill(filler)
                batch = until(client, batch, lambda batch: _paused(batch) is not None)
                assert "disk" in str(_paused(batch))
                n_paused = n_done(batch)
                assert n_paused < 400
                filler.unlink()
                batch = until(client, batch, is_done)
                assert answers(client, batch) == texts
            assert any(
                entry["level"] == "error" and "waits" in entry["message"] for entry in daemon.log
            )
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)
        shutil.rmtree(state, ignore_errors=True)


def fill(path: Path) -> None:
    """Leave no byte free on a disk."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass


def _paused(batch: Batch) -> str | None:
    paused: str | None = batch.hearth["paused"]  # type: ignore[attr-defined]  # a field of ours that OpenAI's client keeps
    return paused


@pytest.mark.batch5k
@pytest.mark.timeout(1800)
def test_five_thousand_lines_and_three_kills(short_path: Path) -> None:
    """Some lines are wrong, and each has to be told of once, too."""
    n, rng = 5000, random.Random(5)
    content, texts = many(n)
    rows = content.splitlines(keepends=True)
    wrong = {i for i in range(n) if i % 100 == 50}
    for i in wrong:
        request = json.loads(rows[i])
        request["body"]["model"] = "nobody"
        rows[i] = json.dumps(request).encode() + b"\n"
        del texts[f"id-{i:05}"]
    kills = sorted(rng.sample(range(200, n - 400), 3))
    batch: Batch | None = None
    for at in [*kills, n]:
        with running(short_path, *SIM) as daemon, client_of(daemon) as client:
            batch = _retrieved(client, batch) if batch else submit(client, b"".join(rows))
            batch = _until_patiently(client, batch, functools.partial(has_done, at))
            if at < n:
                os.kill(daemon.process.pid, signal.SIGKILL)
                daemon.process.wait()
                continue
            batch = _until_patiently(client, batch, is_done)
            assert answers(client, batch) == texts
            assert batch.error_file_id is not None
            failed = records(client.files.content(batch.error_file_id).content)
            assert sorted(entry["custom_id"] for entry in failed) == sorted(
                f"id-{i:05}" for i in wrong
            )
            assert {entry["response"]["status_code"] for entry in failed} == {404}


def _retrieved(client: OpenAI, batch: Batch) -> Batch:
    return client.batches.retrieve(batch.id)


def _until_patiently(client: OpenAI, batch: Batch, holds: Callable[[Batch], bool]) -> Batch:
    while not holds(batch):
        time.sleep(0.05)
        try:
            batch = client.batches.retrieve(batch.id)
        except (APIConnectionError, InternalServerError):
            continue
    return batch
