"""Keys at run time: given out, limited, expired, revoked while they are used; and the record of it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api_server import ApiServer
from fake_serving import FakeServing, model_status

from hearthd import wire
from hearthd.access.keyring import Keyring
from hearthd.access.register import Register
from hearthd.access.stored import count
from hearthd.config.schema import KeyConfig
from hearthd.errors import HearthError

STREAM = {"model": "canary", "prompt": "x", "stream": True}


@pytest.fixture
async def http(serving: FakeServing, register: Register) -> AsyncIterator[aiohttp.ClientSession]:
    serving.statuses = (model_status(), model_status("small"))
    async with ApiServer(serving, register=register) as server, server.http() as session:
        yield session


async def ask(
    http: aiohttp.ClientSession, method: str, path: str, status: int = 200, key: str = "", **details: Any
) -> Any:  # fmt: skip
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with http.request(method, path, headers=headers, **details) as response:
        assert response.status == status, await response.text()
        return json.loads(await response.read())


async def give_out(http: aiohttp.ClientSession, name: str, **fields: object) -> str:
    answer = await ask(http, "POST", "/api/v1/keys", 201, json={"name": name, **fields})
    key: str = answer["key"]
    return key


def content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("access.db*"))


async def test_a_key_is_shown_once_and_counts_at_once(
    http: aiohttp.ClientSession, register: Register, tmp_path: Path
) -> None:
    key = await give_out(http, "ann", role="user", models=["small"], weight=2)
    assert key.startswith("hearth_")
    assert len(key) > 40
    assert [m["id"] for m in (await ask(http, "GET", "/v1/models", key=key))["data"]] == ["small"]
    listed = (await ask(http, "GET", "/api/v1/keys"))["keys"]
    assert [(k["name"], k["source"], k["models"], k["weight"]) for k in listed] == [
        ("ann", "store", ["small"], 2.0)
    ]
    assert listed[0]["last_used"] == 1_800_000_000.0
    await register.close()
    files = await asyncio.to_thread(content, tmp_path)
    assert key.encode() not in files
    assert hashlib.sha256(key.encode()).hexdigest().encode() in files
    assert await asyncio.to_thread(count, tmp_path) == 1


async def test_keys_are_there_after_a_restart(
    http: aiohttp.ClientSession, register: Register, tmp_path: Path
) -> None:
    key = await give_out(http, "ann", role="readonly", expires_seconds=60)
    await register.close()
    again = Register(tmp_path, Keyring())
    await again.open()
    held = again.keyring.find(key)
    assert held is not None
    assert (held.principal.name, held.principal.role, held.source) == ("ann", "readonly", "store")
    assert held.config.expires is not None
    await again.close()


async def test_a_key_expires(http: aiohttp.ClientSession, clock: Any) -> None:
    key = await give_out(http, "ann", expires_seconds=60)
    clock.now += 59.9
    await ask(http, "GET", "/v1/models", key=key)
    clock.now += 0.2
    error = (await ask(http, "GET", "/v1/models", 401, key=key))["error"]
    assert error["code"] == "key_expired"
    assert "ann expired at 2027-01-15 08:01 UTC" in error["message"]
    assert (await ask(http, "GET", "/api/v1/keys"))["keys"][0]["expired"]


async def endless(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
    for i in range(10**6):
        yield wire.Delta(rid=submit.rid, text="x", tokens=[i])
        await asyncio.sleep(0.001)


async def test_revocation_ends_what_runs(
    http: aiohttp.ClientSession, serving: FakeServing, register: Register
) -> None:
    serving.script = endless
    ann, bob = await give_out(http, "ann"), await give_out(http, "bob")
    headers = [{"Authorization": f"Bearer {key}"} for key in (ann, bob)]
    async with (
        http.post("/v1/completions", json=STREAM, headers=headers[0]) as cut,
        http.post("/v1/completions", json=STREAM, headers=headers[1]) as other,
    ):
        whole = asyncio.create_task(
            ask(http, "POST", "/v1/completions", 401, ann, json={**STREAM, "stream": False})
        )
        while len(serving.submits) < 3:  # noqa: ASYNC110  # the fake has no event for it
            await asyncio.sleep(0.01)
        answer = await ask(http, "DELETE", "/api/v1/keys/ann")
        assert answer == {"name": "ann", "requests_ended": 2, "keys_left": 1}
        last = (await cut.content.read()).rstrip().rpartition(b"data: ")[2]
        assert json.loads(last)["error"]["code"] == "key_revoked"
        assert (await whole)["error"]["code"] == "key_revoked"
        assert await other.content.readany()  # goes on
        assert not other.content.is_eof()
    error = (await ask(http, "GET", "/v1/models", 401, key=ann))["error"]
    assert error["code"] == "invalid_api_key"
    await ask(http, "GET", "/v1/models", key=bob)
    assert register.leashes.cut("ann") == 0
    await give_out(http, "ann")  # the name is free again


async def test_a_large_answer_breaks_off_with_its_key(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is no stream of events has no place for words once it has begun."""
    key = await give_out(http, "ann", role="operator")

    async def endless_pages(*_: object) -> tuple[int, list[object]]:
        await asyncio.sleep(0.01)
        return 1, []

    class Pages:
        page = endless_pages

    monkeypatch.setattr("hearthd.api.cached_answers._exact", lambda _request: Pages())
    headers = {"Authorization": f"Bearer {key}"}
    async with http.get("/api/v1/cache/export", headers=headers) as answer:
        assert answer.status == 200
        await ask(http, "DELETE", "/api/v1/keys/ann")
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "anonymous"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a", "role": "root"}, "role"),
        ({"name": "a", "models": ["none"]}, "models"),
        ({"name": "a", "weight": 0}, "weight"),
        ({"name": "a", "limits": {"concurrency": 0}}, "limits.concurrency"),
        ({"name": "a", "expires": "2020-01-01T00:00:00Z"}, "expires"),
        ({"name": "a", "expires": "2030-01-01T00:00:00"}, "expires"),
        ({"name": "a", "expires": "2030-01-01T00:00:00Z", "expires_seconds": 5}, "expires_seconds"),
        ({}, "name"),
    ],
)
async def test_keys_that_cannot_be(
    http: aiohttp.ClientSession, fields: dict[str, object], param: str
) -> None:
    error = (await ask(http, "POST", "/api/v1/keys", 400, json=fields))["error"]
    assert error["param"] == param
    assert (await ask(http, "GET", "/api/v1/keys"))["keys"] == []


async def test_names_are_taken_and_the_configuration_keeps_its_own(
    http: aiohttp.ClientSession, register: Register
) -> None:
    await give_out(http, "ann")
    error = (await ask(http, "POST", "/api/v1/keys", 400, json={"name": "ann"}))["error"]
    assert error["code"] == "key_exists"
    register.keyring.put("conf", KeyConfig(hash="0" * 64), "configuration")
    error = (await ask(http, "DELETE", "/api/v1/keys/conf", 400))["error"]
    assert error["code"] == "key_is_configured"
    error = (await ask(http, "DELETE", "/api/v1/keys/carl", 404))["error"]
    assert "there are: conf, ann" in error["message"]


async def test_every_action_is_on_record(
    http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await give_out(http, "ann", role="operator")
    bob = await give_out(http, "bob")
    with caplog.at_level("INFO", logger="hearthd.access.register"):
        await ask(
            http, "POST", "/api/v1/keys", 403, key=bob, json={"name": "mine", "role": "operator"}
        )
        await ask(http, "DELETE", "/api/v1/keys/bob", key=ann)
        await ask(http, "DELETE", "/api/v1/keys/bob", 404, key=ann)
        await ask(http, "DELETE", "/api/v1/keys/ann", 401, key="guessed")
    actions = (await ask(http, "GET", "/api/v1/audit", key=ann))["actions"]
    assert [(a["who"], a["action"], a["detail"], a["status"]) for a in actions] == [
        ("ann", "DELETE /api/v1/keys/bob", "bob", 404),
        ("ann", "DELETE /api/v1/keys/bob", "bob", 200),
        ("bob", "POST /api/v1/keys", "", 403),
        ("local operator", "POST /api/v1/keys", "bob as user", 201),
        ("local operator", "POST /api/v1/keys", "ann as operator", 201),
    ]
    assert {a["origin"] for a in actions} == {"127.0.0.1"}
    assert all(a["request_id"].startswith("req-") and a["at"] > 1.7e9 for a in actions)
    assert len(caplog.records) == 3
    assert len((await ask(http, "GET", "/api/v1/audit?limit=2"))["actions"]) == 2
    for limit in ("0", "9" * 5000):
        await ask(http, "GET", f"/api/v1/audit?limit={limit}", 400)


def test_all_hashes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """By construction: every hash, and every time, through hmac.compare_digest."""
    secrets = [f"secret-{i}" for i in range(5)]
    keys = {s: KeyConfig(hash=hashlib.sha256(s.encode()).hexdigest()) for s in secrets}
    keyring = Keyring(keys)
    compared: list[bytes] = []

    def compare(shown: bytes, known: bytes) -> bool:
        compared.append(known)
        return hmac_compare(shown, known)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr("hearthd.access.keyring.hmac.compare_digest", compare)
    for shown in (secrets[0], secrets[4], "secret-9", ""):
        compared.clear()
        held = keyring.find(shown)
        assert (held.principal.name if held else None) == (shown if shown in keys else None)
        assert compared == [bytes.fromhex(key.hash) for key in keys.values()]


async def test_without_its_file_no_key_is_given_out(serving: FakeServing, tmp_path: Path) -> None:
    (tmp_path / "access.db").write_bytes(b"not a database" * 100)
    register = Register(tmp_path, Keyring({"conf": KeyConfig(hash="0" * 64)}))
    await register.open()
    assert await asyncio.to_thread(count, tmp_path) == 0
    async with ApiServer(serving, register=register) as server, server.http() as http:
        error = (await ask(http, "POST", "/api/v1/keys", 500, json={"name": "ann"}))["error"]
        assert error["code"] == "access_failed"
        assert [k["name"] for k in (await ask(http, "GET", "/api/v1/keys"))["keys"]] == ["conf"]
        await ask(http, "GET", "/api/v1/audit", 500)
    await register.close()


async def test_a_key_of_a_newer_hearthd_opens_nothing(register: Register, tmp_path: Path) -> None:
    key, _ = await register.give_out("ann", KeyConfig(hash=""))
    await register.close()
    with sqlite3.connect(tmp_path / "access.db") as connection:
        connection.execute('INSERT INTO keys VALUES (\'new\', 1, \'{"hash": "00", "of": 1}\')')
    connection.close()
    again = Register(tmp_path, Keyring())
    await again.open()
    assert [held.principal.name for held in again.keyring.held] == ["ann"]
    assert again.keyring.find(key) is not None
    await again.close()
    with pytest.raises(HearthError, match="not open"):
        await again.give_out("bob", KeyConfig(hash=""))


def test_the_configuration_changes_while_the_daemon_runs() -> None:
    keyring = Keyring({"a": KeyConfig(hash="0" * 64), "b": KeyConfig(hash="1" * 64)})
    keyring.put("stored", KeyConfig(hash="2" * 64), "store")
    changed = keyring.configure({"b": KeyConfig(hash="1" * 64), "a": KeyConfig(hash="3" * 64)})
    assert changed == {"a"}
    assert set(keyring.configs) == {"a", "b", "stored"}
    assert keyring.configs["a"].hash == "3" * 64
    assert keyring.configure({}) == {"a", "b"}
    assert [held.principal.name for held in keyring.held] == ["stored"]
