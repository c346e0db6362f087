"""Alive, ready, metrics, version, and the request id that every answer has."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from api_server import ApiServer
from fake_serving import FakeServing, model_status

from hearthd import __version__
from hearthd.api.middleware import request_id_of


async def test_alive_whatever_the_models_do(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    serving.statuses = (model_status(state="failed"),)
    async with http.get("/livez") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/readyz", "/health"])
async def test_ready_when_the_models_are(
    serving: FakeServing, http: aiohttp.ClientSession, path: str
) -> None:
    async with http.get(path) as answer:
        assert answer.status == 200
    serving.statuses = (
        model_status(),
        model_status(
            "big", state="loading", answers=False, phase="loading", progress=0.25, info=None
        ),
    )
    async with http.get(path) as answer:
        assert answer.status == 503
        body = await answer.json()
    assert (body["ready"], body["draining"]) == (False, False)
    assert body["models"][1] == {
        "name": "big",
        "state": "loading",
        "phase": "loading",
        "progress": 0.25,
        "answers": False,
        "error": None,
    }


async def test_the_version(http: aiohttp.ClientSession) -> None:
    async with http.get("/version") as answer:
        assert await answer.json() == {"version": __version__}


async def test_metrics_count_answers_by_pattern(http: aiohttp.ClientSession) -> None:
    for path in ("/v1/models/canary", "/v1/models/nobody", "/nowhere"):
        async with http.get(path):
            pass
    async with http.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = await answer.text()
    assert 'route="/v1/models/{name}",status="200"} 1.0' in text
    assert 'route="/v1/models/{name}",status="404"} 1.0' in text
    assert 'route="unmatched",status="404"} 1.0' in text
    assert "nowhere" not in text


async def test_the_clients_request_id_comes_back_and_reaches_serving(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    headers = {"X-Request-Id": "trace-42/a"}
    body = {"model": "canary", "prompt": "x"}
    for stream in (False, True):
        async with http.post(
            "/v1/completions", json={**body, "stream": stream}, headers=headers
        ) as answer:
            assert answer.headers["X-Request-Id"] == "trace-42/a"
    assert serving.request_ids == ["trace-42/a", "trace-42/a"]


@pytest.mark.parametrize("header", [None, "", "a b", "x" * 129, "ümlaut", "-x", "a\x7f"])
def test_an_id_that_is_not_sane_is_replaced(header: str | None) -> None:
    made = request_id_of(header)
    assert made.startswith("req-")
    assert made != request_id_of(header)


async def test_the_same_api_on_the_socket(serving: FakeServing, tmp_path: Path) -> None:
    async with ApiServer(serving, socket=tmp_path / "api.sock") as server:
        async with server.openai(over_socket=True) as openai:
            answer = await openai.completions.create(model="canary", prompt="x")
            assert answer.choices[0].text == "Hello"
            stream = await openai.chat.completions.create(
                model="canary", messages=[{"role": "user", "content": "x"}], stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == "Hello"
        async with server.http(over_socket=True) as http, http.get("/v1/nothing") as response:
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "not_found"
