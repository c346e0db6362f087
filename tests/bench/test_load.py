"""The load generator against a real server on loopback: lengths, times, counts and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_openai import FakeOpenAI, prompt_tokens, tokens_of

import serve
from hearth_bench.endpoint import Endpoint
from hearth_bench.load import run_load
from hearth_bench.report import Report, make_report
from hearth_bench.work import Work

WORK = Work(concurrency=4, n_requests=8, prompt_tokens=40, output_tokens=5, n_warmup=0)


async def measure(fake: FakeOpenAI, work: Work) -> Report:
    async with fake.running() as url:
        return make_report(await run_load(Endpoint(url), work))


async def test_counts_and_times() -> None:
    fake = FakeOpenAI(first_token_seconds=0.05, token_seconds=0.01)

    report = await measure(fake, WORK)

    assert (report.n_ok, report.n_failed, report.errors) == (8, 0, {})
    assert (report.prompt_tokens, report.output_tokens, report.cached_tokens) == (320, 40, 24)
    assert report.ttft_seconds is not None
    assert report.gap_seconds is not None
    assert report.tpot_seconds is not None
    assert 0.05 <= report.ttft_seconds.p50 < 0.5
    assert 0.01 <= report.tpot_seconds.p50 < 0.1
    assert report.gap_seconds.n == 8 * 4
    assert report.e2e_seconds is not None
    assert report.e2e_seconds.p50 > report.ttft_seconds.p50 + 4 * 0.01
    expected = 40 / report.wall_seconds
    assert report.output_tokens_per_second == pytest.approx(expected)
    assert report.total_tokens_per_second == pytest.approx(expected * 9)


async def test_prompts_are_token_ids_of_exact_length_that_share_exactly_their_prefix() -> None:
    fake = FakeOpenAI()

    await measure(fake, replace(WORK, shared_tokens=25, n_warmup=2))

    warm, measured = fake.requests[:2], [r["prompt"] for r in fake.requests[2:]]
    assert all(len(prompt) == 40 for prompt in measured)
    assert len({tuple(prompt[:25]) for prompt in measured}) == 1
    assert len({tuple(prompt[25:]) for prompt in measured}) == 8
    assert warm[0]["prompt"][:25] != measured[0][:25]
    assert all(33 <= token < 127 for prompt in measured for token in prompt)
    assert fake.requests[2]["ignore_eos"] is True
    assert fake.requests[2]["min_tokens"] == 5


async def test_the_same_seed_asks_the_same() -> None:
    one, two, other = FakeOpenAI(), FakeOpenAI(), FakeOpenAI()

    await measure(one, replace(WORK, concurrency=1))
    await measure(two, replace(WORK, concurrency=1))
    await measure(other, replace(WORK, concurrency=1, seed=1))

    assert one.requests == two.requests
    assert one.requests[0]["prompt"] != other.requests[0]["prompt"]


@pytest.mark.parametrize("dialect", ["vllm", "llama-server"])
async def test_text_prompts_have_exactly_the_length_that_the_server_counts(dialect: str) -> None:
    fake = FakeOpenAI(dialect=dialect)

    await measure(fake, replace(WORK, tokenizer="auto", shared_tokens=12))

    prompts = [request["prompt"] for request in fake.requests]
    assert [len(tokens_of(prompt)) for prompt in prompts] == [40] * 8
    assert len(set(prompts)) == 8
    heads = {" ".join(prompt.split()[:3]) for prompt in prompts}
    assert len(heads) == 1


async def test_a_conversation_repeats_what_was_said() -> None:
    fake = FakeOpenAI()

    report = await measure(
        fake,
        replace(WORK, chat=True, tokenizer="auto", turns=3, n_requests=6, concurrency=1, n_chats=2),
    )

    assert report.n_ok == 6
    lengths = [len(request["messages"]) for request in fake.requests]
    assert lengths == [1, 1, 3, 3, 5, 5]  # two chats take turns
    last = fake.requests[-1]["messages"]
    assert [message["role"] for message in last] == ["user", "assistant"] * 2 + ["user"]
    assert last[1]["content"] == "w0 w1 w2 w3 w4 "
    assert last[:3] == fake.requests[3]["messages"]
    assert prompt_tokens({"messages": [last[-1]]}) == 40


async def test_without_usage_chunks_are_counted() -> None:
    report = await measure(FakeOpenAI(counts_usage=False), WORK)

    assert report.output_tokens == 40
    assert report.prompt_tokens is None
    assert report.total_tokens_per_second is None


async def test_errors_are_told_by_kind() -> None:
    kinds = {0: "429", 1: "cut", 2: "event", 3: "429"}
    fake = FakeOpenAI(fails=kinds.get)

    report = await measure(fake, replace(WORK, concurrency=1))

    assert report.errors == {
        "http_429 queue_full": 2,
        "connection lost": 1,
        "stream engine_failed": 1,
    }
    assert (report.n_ok, report.output_tokens) == (4, 20)


async def test_a_load_by_time_ends_and_counts_only_its_window() -> None:
    fake = FakeOpenAI(first_token_seconds=0.01, token_seconds=0.02)

    report = await measure(
        fake, replace(WORK, n_requests=None, seconds=0.3, concurrency=2, output_tokens=10)
    )

    assert report.wall_seconds == pytest.approx(0.3, abs=0.02)
    assert report.n_ok >= 2
    assert report.output_tokens_per_second * report.wall_seconds < report.output_tokens


def test_the_script_reports_an_address_where_nobody_listens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert serve.main(["--url", "http://127.0.0.1:9", "--requests", "1"]) == 2
    assert "serve.py:" in capsys.readouterr().err


def test_the_script_prints_json_and_records(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import asyncio
    import threading

    fake, ready, stop = FakeOpenAI(), threading.Event(), threading.Event()
    address: list[str] = []

    async def run() -> None:
        async with fake.running() as url:
            address.append(url)
            ready.set()
            await asyncio.to_thread(stop.wait)

    server = threading.Thread(target=lambda: asyncio.run(run()))
    server.start()
    ready.wait()
    try:
        options = f"--url {address[0]}/v1 --json --concurrency 2 --requests 4 --shared-prefix 0.5"
        records = tmp_path / "records.jsonl"
        status = serve.main([*options.split(), "--records", str(records), "--output-tokens", "3"])
    finally:
        stop.set()
        server.join()

    report = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (report["n_ok"], report["output_tokens"], report["model"]) == (4, 12, "fake")
    assert len(records.read_text().splitlines()) == 4
