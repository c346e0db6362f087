"""Classes, deadlines and limits on the way through Serving, with real engines."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from hearthd_process import Daemon, running
from serving_rig import ServingRig, Start, read

from hearthd import wire
from hearthd.config import ModelConfig
from hearthd.config.schema import RequestClass
from hearthd.errors import ConcurrencyLimited, DeadlineExceeded, Forbidden, RateLimited
from hearthd.serving.generation import Generation, GenerationRequest
from hearthd.serving.principal import LOCAL, KeyLimits, Principal

SLOW = {"m": ModelConfig(path="sim:latency_ms=10", concurrency=1)}


def ask(
    rig: ServingRig, principal: Principal, klass: RequestClass = "normal", **fields: object
) -> Generation:
    submit = wire.Submit(
        rid=0,
        sampling=wire.Sampling(temperature=0.0),
        text="hello",
        **{"max_tokens": 8, "ignore_eos": True, **fields},  # type: ignore[arg-type]  # each call gives fields of their type
    )
    return rig.serving.generate(GenerationRequest("m", submit, "test", klass, principal))


def counted(rig: ServingRig, sample: str) -> bool:
    return sample in rig.metrics.render().decode()


async def test_what_a_principal_is_reaches_the_engine(start: Start) -> None:
    rig = start(SLOW)
    principal = Principal("ann", weight=3.0, salt="s")
    generation = ask(rig, principal, "interactive")
    submit = generation.submit
    assert (submit.priority, submit.key, submit.weight, submit.salt) == (1, "ann", 3.0, "s")
    assert await read(generation)
    assert counted(rig, 'hearth_key_requests_total{class="interactive",key="ann",outcome="length"}')


async def test_limits_are_those_of_the_key_and_are_given_back(start: Start) -> None:
    rig = start(SLOW)
    ann = Principal("ann", limits=KeyLimits(concurrency=1, tokens_per_minute=60))
    first = ask(rig, ann)
    with pytest.raises(ConcurrencyLimited):
        ask(rig, ann)
    other = ask(rig, LOCAL)
    assert rig.serving.standing(ann).n_active == 1
    await read(first)
    await read(other)
    standing = rig.serving.standing(ann)
    assert standing.n_active == 0
    assert 60 - 5 - 8 <= (standing.tokens_left or 0) <= 55
    with pytest.raises(RateLimited):
        ask(rig, ann, max_tokens=5000)
    async with ask(rig, ann, max_tokens=20):
        pass  # its client goes at once
    assert rig.serving.standing(ann).n_active == 0
    assert counted(rig, 'reason="concurrency_limit"} 1.0')
    assert counted(rig, 'reason="rate_limit_exceeded"} 1.0')


async def test_a_model_that_is_not_for_this_key(start: Start) -> None:
    rig = start(SLOW)
    bob = Principal("bob", models=frozenset({"other"}))
    with pytest.raises(Forbidden, match="may not use the model m"):
        ask(rig, bob)
    with pytest.raises(Forbidden):
        await rig.serving.encode("m", wire.Encode(rid=0, text="x"), bob)


async def test_a_deadline_that_has_passed_is_refused_at_once(start: Start) -> None:
    rig = start(SLOW)
    with pytest.raises(DeadlineExceeded):
        ask(rig, LOCAL, deadline_seconds=time.monotonic() - 1.0)
    assert counted(rig, 'hearth_requests_total{class="normal",model="m",outcome="shed"} 1.0')


async def test_what_waits_past_its_deadline_ends_before_it_begins(start: Start) -> None:
    rig = start(SLOW)
    await rig.until_state("ready")
    running = ask(rig, LOCAL, max_tokens=100)
    waiting = ask(rig, Principal("k", limits=KeyLimits(deadline_seconds=0.3)))
    with pytest.raises(DeadlineExceeded):
        await read(waiting)
    assert waiting.timeline.outcome == "shed"
    assert await read(running)


async def test_what_runs_past_its_deadline_ends_with_what_it_has(start: Start) -> None:
    rig = start(SLOW)
    await rig.until_state("ready")
    generation = ask(rig, LOCAL, max_tokens=2000, deadline_seconds=time.monotonic() + 0.5)
    async with asyncio.timeout(10):
        assert (await anext(generation)).text
    with pytest.raises(DeadlineExceeded):
        await read(generation)
    assert generation.timeline.outcome == "expired"
    assert await read(ask(rig, LOCAL))


async def test_two_keys_at_full_load_get_tokens_by_their_weights(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:layers=1,latency_ms=2", concurrency=4)})
    await rig.until_state("ready")
    keys = {"heavy": Principal("heavy", weight=3.0), "light": Principal("light")}
    served = dict.fromkeys(keys, 0)
    until = time.monotonic() + 6.0

    async def saturate(name: str) -> None:
        while time.monotonic() < until:
            generation = ask(rig, keys[name], max_tokens=12)
            await read(generation)
            if time.monotonic() < until:
                served[name] += 5 + 12

    await asyncio.gather(*(saturate(name) for name in keys for _ in range(10)))
    assert served["heavy"] / served["light"] == pytest.approx(3.0, rel=0.1)


async def test_a_person_does_not_wait_for_batch_that_fills_every_seat(start: Start) -> None:
    rig = start({"m": ModelConfig(path="sim:layers=1,latency_ms=5", concurrency=2)})
    await rig.until_state("ready")
    batch = [ask(rig, LOCAL, "batch", max_tokens=300) for _ in range(4)]
    async with asyncio.timeout(10):
        await anext(batch[0])
    person = ask(rig, LOCAL, "interactive", max_tokens=3)
    assert await read(person)
    assert (person.timeline.ttft_seconds or 9.0) < 0.5
    for generation in batch:
        assert await read(generation)
    assert sum(generation.timeline.n_preempted for generation in batch) >= 1
    assert counted(rig, 'hearth_preempted_total{class="batch",key="anonymous",model="m"}')


def test_keys_of_the_configuration(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"open sesame").hexdigest()
    settings = [f"keys.ann.hash=sha256:{digest}", "keys.ann.class=batch", "keys.ann.limits.concurrency=2"]  # fmt: skip
    flags = [word for setting in settings for word in ("--set", setting)]
    with running(tmp_path, "--model", "m=sim:", *flags) as daemon:
        daemon.until_ready()
        cases: list[tuple[dict[str, str], int]] = [
            ({}, 200),
            ({"Authorization": "Bearer open sesame"}, 200),
            ({"Authorization": "Bearer open"}, 401),
            ({"Authorization": "Bearer open sesame", "X-Request-Class": "normal"}, 403),
            ({"X-Request-Deadline": "1"}, 200),
            ({"X-Request-Deadline": "0"}, 504),
        ]
        for headers, status in cases:
            answer = post(daemon, headers)
            assert (answer.status, headers) == (status, headers)
            if status == 200:
                told = answer.getheader("x-ratelimit-limit-requests")
                assert told == ("2" if "Authorization" in headers else None)


def post(daemon: Daemon, headers: dict[str, str]) -> HTTPResponse:
    """The answer to a completion."""
    connection = HTTPConnection(daemon.address(), timeout=30)
    try:
        body = json.dumps({"model": "m", "prompt": "x", "max_tokens": 2})
        connection.request("POST", "/v1/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer
    finally:
        connection.close()
