"""Files and batches through the official client: uploads, lists, every line answered once, every kind of bad line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData
from batch_rig import batch_server, line, lines, results, submit, until
from fake_serving import FakeServing
from openai import APIStatusError, BadRequestError, NotFoundError

from hearthd.config.schema import BatchConfig


async def test_a_batch_is_answered(tmp_path: Path) -> None:
    serving = FakeServing()
    async with batch_server(tmp_path, serving) as (_, client):
        content = lines(*(line(f"id-{i}", f"Q{i}") for i in range(40)))
        batch = await submit(client, content, metadata={"who": "test"})
        assert (batch.object, batch.status) == ("batch", "validating")
        batch = await until(client, batch, "completed")
        good, bad = await results(client, batch)
        stored = await client.files.retrieve(batch.output_file_id or "")
    assert bad == []
    assert batch.error_file_id is None
    assert sorted(r["custom_id"] for r in good) == sorted(f"id-{i}" for i in range(40))
    first = good[0]
    assert first["response"]["status_code"] == 200
    assert first["response"]["body"]["choices"][0]["message"]["content"] == "Hello"
    assert first["response"]["request_id"] == first["id"]
    assert first["error"] is None
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (40, 40, 0)
    assert batch.usage is not None
    assert (batch.usage.input_tokens, batch.usage.output_tokens) == (200, 80)
    assert batch.model == "canary"
    assert batch.metadata == {"who": "test"}
    times = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]  # None is not among them
    assert batch.expires_at == batch.created_at + 86400
    assert (stored.purpose, stored.status) == ("batch_output", "processed")
    assert {request.klass for request in serving.requests} == {"batch"}


async def test_a_bad_line_is_an_error_line_and_the_rest_runs(tmp_path: Path) -> None:
    content = lines(
        line("good"),
        b"{not json",
        {key: value for key, value in line("").items() if key != "custom_id"},
        line("good", "again"),
        line("elsewhere", url="/v1/completions"),
        {**line("got"), "method": "GET"},
        {**line("empty"), "body": None},
        {**line("list"), "body": []},
        line("streams", stream=True),
        line("nobody", model="nobody"),
        line("hot", temperature=99),
        b"",
        b'["no object"]',
        b"\xff\xfe",
        line("last"),
    )
    async with batch_server(tmp_path, FakeServing()) as (_, client):
        batch = await until(client, await submit(client, content), "completed")
        good, bad = await results(client, batch)
    assert {r["custom_id"] for r in good} == {"good", "last"}
    by_line = {int(r["id"].rpartition("_")[2]): r for r in bad}
    codes = {n: r["error"]["code"] for n, r in by_line.items() if r["error"] is not None}
    assert codes == {
        2: "invalid_json_line",
        3: "missing_required_parameter",
        4: "duplicate_custom_id",
        5: "invalid_url",
        6: "invalid_method",
        7: "missing_required_parameter",
        8: "invalid_value",
        9: "unsupported",
        13: "invalid_json_line",
        14: "invalid_json_line",
    }
    assert {n: by_line[n]["response"]["status_code"] for n in (10, 11)} == {10: 404, 11: 400}
    assert by_line[10]["response"]["body"]["error"]["code"] == "model_not_found"
    assert by_line[4]["custom_id"] is None  # it is another line's
    assert by_line[5]["custom_id"] == "elsewhere"
    assert by_line[2]["error"]["line"] == 2
    named = [r["custom_id"] for r in good + bad if r["custom_id"] is not None]
    assert len(named) == len(set(named))
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (14, 2, 12)


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "empty_file"), (b"\n\n", "empty_file"), (None, "too_many_lines")]
)
async def test_a_file_that_is_no_batch(tmp_path: Path, content: bytes | None, code: str) -> None:
    config = BatchConfig(reserve=0, lines=3)
    async with batch_server(tmp_path, FakeServing(), config=config) as (_, client):
        if content is None:
            content = lines(*(line(str(i)) for i in range(4)))
        batch = await until(client, await submit(client, content), "failed")
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert batch.errors.data[0].code == code
    assert batch.failed_at is not None
    assert batch.output_file_id is None


async def test_what_cannot_be_a_batch(tmp_path: Path) -> None:
    async with batch_server(tmp_path, FakeServing()) as (_, client):
        file = await client.files.create(file=("in.jsonl", lines(line("a"))), purpose="batch")
        asked: dict[str, Any] = {
            "input_file_id": file.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        for change, param in (
            ({"endpoint": "/v1/images"}, "endpoint"),
            ({"completion_window": "soon"}, "completion_window"),
            ({"completion_window": "99d"}, "completion_window"),
            ({"metadata": {"k" * 65: "v"}}, "metadata"),
            ({"output_expires_after": {"anchor": "created_at", "seconds": 1}},
             "output_expires_after.seconds"),
            ({"output_expires_after": {"anchor": "created_at", "seconds": "9" * 5000}},
             "output_expires_after.seconds"),
        ):  # fmt: skip
            with pytest.raises(BadRequestError) as refused:
                await client.batches.create(**{**asked, **change})
            assert refused.value.param == param
        with pytest.raises(NotFoundError):
            await client.batches.create(**{**asked, "input_file_id": "file-none"})
        with pytest.raises(NotFoundError):
            await client.batches.retrieve("batch_none")
        with pytest.raises(BadRequestError) as refused:
            await client.files.create(file=("x", b"x"), purpose="fine-tune")
        assert refused.value.code == "unsupported"


async def test_files_are_listed_read_and_deleted(tmp_path: Path) -> None:
    async with batch_server(tmp_path, FakeServing()) as (server, client):
        made = [
            await client.files.create(
                file=(f"{i}.jsonl", b"x" * i),
                purpose="batch",
                expires_after={"anchor": "created_at", "seconds": 3600},
            )
            for i in range(1, 6)
        ]
        assert [file.bytes for file in made] == [1, 2, 3, 4, 5]
        assert made[0].expires_at == made[0].created_at + 3600
        listed = [file.id async for file in client.files.list(limit=2)]
        assert listed == [file.id for file in reversed(made)]
        ascending = [file.id async for file in client.files.list(order="asc")]
        assert ascending == [file.id for file in made]
        assert [f async for f in client.files.list(purpose="batch_output")] == []
        assert (await client.files.content(made[2].id)).content == b"xxx"
        assert (await client.files.delete(made[2].id)).deleted
        with pytest.raises(NotFoundError):
            await client.files.content(made[2].id)
        assert len(list((tmp_path / "files").iterdir())) == 4
        async with server.http() as http:
            refused = await http.post("/v1/files", data=b"no form")
            assert refused.status == 400
            form = FormData({"purpose": "batch"}, default_to_multipart=True)
            refused = await http.post("/v1/files", data=form)
            assert (await refused.json())["error"]["param"] == "file"
            refused = await http.get("/v1/files", params={"limit": "0"})
            assert refused.status == 400


async def test_batches_are_listed_by_page(tmp_path: Path) -> None:
    async with batch_server(tmp_path, FakeServing()) as (_, client):
        made = [await submit(client, lines(line("a"))) for _ in range(5)]
        page = await client.batches.list(limit=2)
        assert page.has_more
        listed = [batch.id async for batch in client.batches.list(limit=2)]
        assert listed == [batch.id for batch in reversed(made)]


async def test_a_large_file_is_too_large(tmp_path: Path) -> None:
    config = BatchConfig(reserve=0, file=1 << 20, budget=(1 << 20) + 10)
    async with batch_server(tmp_path, FakeServing(), config=config) as (_, client):
        with pytest.raises(APIStatusError) as refused:
            await client.files.create(file=("x", b"x" * (2 << 20)), purpose="batch")
        assert refused.value.status_code == 413
        await client.files.create(file=("x", b"x" * (1 << 20)), purpose="batch")
        with pytest.raises(APIStatusError) as refused:
            await client.files.create(file=("x", b"x" * 100), purpose="batch")
        assert (refused.value.status_code, refused.value.code) == (507, "insufficient_storage")
        assert len(list((tmp_path / "files").iterdir())) == 1


async def test_completions_go_the_same_way(tmp_path: Path) -> None:
    asked = {"model": "canary", "prompt": "Hi", "max_tokens": 4}
    request = {"custom_id": "c", "url": "/v1/completions", "method": "POST", "body": asked}
    async with batch_server(tmp_path, FakeServing()) as (_, client):
        batch = await submit(client, lines(request), "/v1/completions")
        batch = await until(client, batch, "completed")
        good, _ = await results(client, batch)
    assert good[0]["response"]["body"]["object"] == "text_completion"
