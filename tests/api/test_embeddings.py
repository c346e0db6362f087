"""/v1/embeddings and /v1/rerank through a real `hearthd` with real engines, with the official client."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from hearthd_process import Daemon, running
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from tiny_bert import TinyBert, some_texts

CONFIG = """
[models.vectors]
path = "sim:task=embed,context=64"
step_tokens = 128
[models.ranks]
path = "sim:task=rerank"
[models.text]
path = "sim:context=512"
[models.slow]
path = "sim:task=embed,latency_ms=100"
[models.bert]
path = "{folder}/bert.gguf"
kv_dtype = "f32"
context = 128
[models.judge]
path = "{folder}/judge.gguf"
kv_dtype = "f32"
[models.asked]
path = "canary"
task = "embed"
pooling = "mean"
context = 256
"""
MODELS = ("vectors", "ranks", "text", "slow", "bert", "judge", "asked")
BERT, JUDGE = TinyBert(), TinyBert("rank", seed=3)


@pytest.fixture(scope="module")
def box() -> Iterator[Daemon]:
    pytest.importorskip("llama_cpp")
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        BERT.write(Path(folder) / "bert.gguf")
        JUDGE.write(Path(folder) / "judge.gguf")
        config = Path(folder) / "hearthd.toml"
        config.write_text(CONFIG.format(folder=folder))
        with running(Path(folder), "--config", str(config)) as daemon:
            for name in MODELS:  # as many engines need their time
                daemon.until(lambda name=name: daemon.model(name)["state"] == "ready")  # type: ignore[misc]  # mypy does not infer such a default
            daemon.until_ready()
            yield daemon


@pytest.fixture
async def openai(box: Daemon) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=f"http://{box.address()}/v1", api_key="none", max_retries=0
    ) as client:
        yield client


@pytest.fixture
async def http(box: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{box.address()}") as session:
        yield session


async def _post(http: aiohttp.ClientSession, path: str, **body: Any) -> tuple[int, Any]:
    async with http.post(path, json=body) as answer:
        return answer.status, await answer.json()


async def _refusal(http: aiohttp.ClientSession, path: str, **body: Any) -> Any:
    status, answer = await _post(http, path, **body)
    assert status == 400, answer
    return answer["error"]


def _similarity(a: list[float], b: list[float]) -> float:
    return float(np.dot(a, b))


# --- embeddings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["vectors", "bert"])
async def test_vectors_of_texts(openai: AsyncOpenAI, model: str) -> None:
    texts = ["the cat sat on the mat", "the cat sat on a mat", "9 8 7"]
    answer = await openai.embeddings.create(model=model, input=texts)
    assert [entry.index for entry in answer.data] == [0, 1, 2]
    assert answer.model == model
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 15
    one, two, other = (entry.embedding for entry in answer.data)
    assert _similarity(one, one) == pytest.approx(1, abs=1e-5)
    assert _similarity(one, two) > _similarity(one, other)
    alone = await openai.embeddings.create(model=model, input=texts[1])
    np.testing.assert_allclose(alone.data[0].embedding, two, atol=1e-4)


async def test_numbers_and_base64_are_the_same_bits(http: aiohttp.ClientSession) -> None:
    ask = {"model": "bert", "input": ["the dog", "ran home"]}
    _, plain = await _post(http, "/v1/embeddings", **ask)
    _, packed = await _post(http, "/v1/embeddings", **ask, encoding_format="base64")
    assert plain["object"] == packed["object"] == "list"
    for one, other in zip(plain["data"], packed["data"], strict=True):
        assert one["object"] == "embedding"
        unpacked = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert np.array(one["embedding"], np.float32).tobytes() == unpacked.tobytes()
    _, explicit = await _post(http, "/v1/embeddings", **ask, encoding_format="float")
    assert explicit["data"] == plain["data"]


async def test_vectors_are_those_of_the_model(openai: AsyncOpenAI) -> None:
    texts = some_texts(20, longest=30)
    answer = await openai.embeddings.create(model="bert", input=texts)
    async with asyncio.TaskGroup() as group:
        tokens = [group.create_task(_tokens(openai, text)) for text in texts]
    expected = [BERT.vector(task.result()) for task in tokens]
    found = [entry.embedding for entry in answer.data]
    np.testing.assert_allclose(found, expected, atol=1e-4)


async def _tokens(openai: AsyncOpenAI, text: str) -> list[int]:
    answer = await openai.post(
        str(openai.base_url).removesuffix("v1/") + "tokenize",
        body={"model": "bert", "prompt": text},
        cast_to=object,
    )
    assert isinstance(answer, dict)
    return list(answer["tokens"])


async def test_text_and_its_tokens_have_the_same_vector(openai: AsyncOpenAI) -> None:
    by_text = await openai.embeddings.create(model="vectors", input=["abc", "de"])
    by_tokens = await openai.embeddings.create(model="vectors", input=[[97, 98, 99], [100, 101]])
    assert by_text.data == by_tokens.data
    one = await openai.embeddings.create(model="vectors", input=[97, 98, 99])
    assert one.data[0].embedding == by_text.data[0].embedding
    assert one.usage.prompt_tokens == 3


async def test_fewer_dimensions(openai: AsyncOpenAI) -> None:
    whole = (await openai.embeddings.create(model="bert", input="a bird")).data[0].embedding
    answer = await openai.embeddings.create(model="bert", input="a bird", dimensions=16)
    cut = answer.data[0].embedding
    assert len(whole) == 64
    np.testing.assert_allclose(cut, np.array(whole[:16]) / np.linalg.norm(whole[:16]), atol=1e-6)
    with pytest.raises(BadRequestError) as refused:
        await openai.embeddings.create(model="bert", input="a bird", dimensions=65)
    assert refused.value.param == "dimensions"


@pytest.mark.parametrize("model", ["vectors", "bert"])
async def test_a_thousand_texts_of_mixed_lengths(openai: AsyncOpenAI, model: str) -> None:
    texts = some_texts(1000, longest=10)
    many = await openai.embeddings.create(model=model, input=texts)
    assert len(many.data) == 1000
    for i in (0, 1, 500, 999):
        one = await openai.embeddings.create(model=model, input=texts[i])
        np.testing.assert_allclose(one.data[0].embedding, many.data[i].embedding, atol=1e-4)


async def test_one_text_does_not_wait_for_a_thousand(openai: AsyncOpenAI) -> None:
    texts = some_texts(300, longest=40)
    long = asyncio.create_task(openai.embeddings.create(model="slow", input=texts))
    await asyncio.sleep(0.3)
    await asyncio.wait_for(openai.embeddings.create(model="slow", input="cat"), 2.0)
    assert not long.done()
    long.cancel()


async def test_a_decoder_gives_vectors_where_it_is_told_to(openai: AsyncOpenAI) -> None:
    answer = await openai.embeddings.create(model="asked", input=["one two three", "one two four"])
    a, b = (entry.embedding for entry in answer.data)
    assert 0.5 < _similarity(a, b) < 0.99999


async def test_what_is_too_long_is_refused_unless_it_may_be_cut(
    http: aiohttp.ClientSession,
) -> None:
    ask = {"model": "vectors", "input": ["a", "x" * 65]}
    error = await _refusal(http, "/v1/embeddings", **ask)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input[1]")
    assert "65 tokens" in error["message"]
    assert "truncate_prompt_tokens" in error["message"]
    status, answer = await _post(http, "/v1/embeddings", **ask, truncate_prompt_tokens=-1)
    assert status == 200
    assert answer["usage"]["prompt_tokens"] == 65
    _, few = await _post(http, "/v1/embeddings", **ask, truncate_prompt_tokens=2)
    assert few["usage"]["prompt_tokens"] == 3


async def test_what_is_no_request(http: aiohttp.ClientSession, openai: AsyncOpenAI) -> None:
    for fields, param in (
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": ""}, "input"),
        ({"input": [[1], [999]]}, "input[1]"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "normalize": False}, "normalize"),
        ({"input": "a", "truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"input": ["a"] * 2049}, "input"),
    ):
        error = await _refusal(http, "/v1/embeddings", model="vectors", **fields)
        assert error["param"] == param, error
    with pytest.raises(NotFoundError):
        await openai.embeddings.create(model="nobody", input="a")


# --- rerank ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_documents_come_sorted(http: aiohttp.ClientSession, path: str) -> None:
    documents = ["zzzzzzz", "the cat sat", {"text": "the cat"}, "cat"]
    status, answer = await _post(http, path, model="ranks", query="the cat", documents=documents)
    assert status == 200
    results = answer["results"]
    assert results[0]["index"] == 2
    assert results[-1]["index"] == 0
    scores = [result["relevance_score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 0
    shown = {"text": "the cat"} if path != "/v2/rerank" else None
    assert results[0].get("document") == shown


async def test_the_best_only_and_without_their_texts(http: aiohttp.ClientSession) -> None:
    ask = {"model": "judge", "query": "the cat", "documents": some_texts(30)}
    _, all_of_them = await _post(http, "/v1/rerank", **ask)
    _, best = await _post(http, "/v1/rerank", **ask, top_n=3, return_documents=False)
    assert len(all_of_them["results"]) == 30
    assert [result["index"] for result in best["results"]] == [
        result["index"] for result in all_of_them["results"][:3]
    ]
    assert "document" not in best["results"][0]
    assert best["id"].startswith("rerank-")


async def test_scores_are_those_of_the_model(http: aiohttp.ClientSession) -> None:
    documents = some_texts(8, seed=4)
    _, answer = await _post(http, "/v1/rerank", model="judge", query="a dog", documents=documents)
    found = {result["index"]: result["relevance_score"] for result in answer["results"]}
    for i, document in enumerate(documents):
        texts = []
        for text in ("a dog", document):
            _, tokens = await _post(
                http, "/tokenize", model="judge", prompt=text, add_special_tokens=False
            )
            texts.append(tokens["tokens"])
        pair = [2, *texts[0], 3, *texts[1], 3]
        assert found[i] == pytest.approx(JUDGE.relevance(pair), abs=1e-4)


async def test_what_is_no_ranking(http: aiohttp.ClientSession) -> None:
    for fields, param in (
        ({"documents": ["a"]}, "query"),
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": [7]}, "documents[0]"),
        ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["a"], "rank_fields": ["title"]}, "rank_fields"),
        ({"query": "a", "documents": ["b", "x" * 5000]}, "documents[1]"),
        ({"query": "x" * 5000, "documents": ["b"], "truncate_prompt_tokens": -1}, "query"),
    ):
        error = await _refusal(http, "/v1/rerank", model="ranks", **fields)
        assert error["param"] == param, error


# --- what a model is for ---------------------------------------------------------------------------


async def test_models_do_what_they_are_made_for(
    http: aiohttp.ClientSession, openai: AsyncOpenAI
) -> None:
    for path, body, model in (
        ("/v1/embeddings", {"input": "a"}, "text"),
        ("/v1/embeddings", {"input": "a"}, "judge"),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}, "text"),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}, "bert"),
        ("/v1/completions", {"prompt": "a"}, "bert"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "ranks"),
    ):
        error = await _refusal(http, path, model=model, **body)
        assert (error["code"], error["param"]) == ("wrong_task", "model")
        assert model in error["message"] or "sim" in error["message"]
    models = {model.id: model for model in (await openai.models.list()).data}
    tasks = {name: model.hearth["task"] for name, model in models.items()}  # type: ignore[attr-defined]  # a field of ours that OpenAI's client keeps
    assert tasks["bert"] == tasks["asked"] == "embed"
    assert tasks["judge"] == "rerank"
    assert tasks["text"] == "generate"
    details = models["bert"].hearth  # type: ignore[attr-defined]  # a field of ours that OpenAI's client keeps
    assert (details["embedding_size"], details["pooling"]) == (64, "mean")


async def test_metrics_tell_what_was_encoded(http: aiohttp.ClientSession) -> None:
    await _post(http, "/v1/embeddings", model="bert", input="the cat")
    await asyncio.sleep(1.5)  # for the engine to tell
    async with http.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    values = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if "#" not in line
    }
    assert values['hearth_encoded_texts_total{model="bert"}'] >= 1
    assert values['hearth_encoding_seconds_total{model="bert"}'] > 0
    assert values['hearth_prompt_tokens_total{model="bert"}'] >= 4
    assert values['hearth_requests_total{class="normal",model="bert",outcome="stop"}'] >= 1
    assert values['hearth_running_requests{model="bert"}'] == 0
