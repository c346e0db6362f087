"""Whose request it is, what the key allows, and what the headers ask for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from api_server import ApiServer
from fake_serving import FakeServing, model_status

from hearthd.access.keyring import Keyring
from hearthd.access.peer import is_loopback, peer_of
from hearthd.api.authentication import key_of
from hearthd.api.keys import ApiOptions
from hearthd.api.rate_headers import duration, rate_headers
from hearthd.api.terms import class_of, seconds_until
from hearthd.config import KeyConfig, KeyLimitsConfig
from hearthd.errors import Forbidden, InvalidRequest, Unauthorized
from hearthd.serving.principal import LOCAL, Principal
from hearthd.serving.quota import Standing

BODY = {"model": "canary", "prompt": "x"}


def key(secret: str, **fields: object) -> KeyConfig:
    return KeyConfig(hash=hashlib.sha256(secret.encode()).hexdigest(), **fields)  # type: ignore[arg-type]  # each call gives fields of their type


KEYRING = Keyring({
    "ann": key("secret-a", klass="interactive", weight=3.0),
    "bob": key(
        "secret-b",
        klass="batch",
        salt="b",
        models=("small",),
        limits=KeyLimitsConfig(concurrency=2, tokens_per_minute=600),
    ),
})  # fmt: skip


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.fixture
async def http(serving: FakeServing) -> AsyncIterator[aiohttp.ClientSession]:
    serving.statuses = (model_status(), model_status("small"))
    async with ApiServer(serving, keyring=KEYRING) as server, server.http() as session:
        yield session


# --- who it is -----------------------------------------------------------------------------------


def test_each_key_is_known_by_its_hash_alone() -> None:
    held = KEYRING.find("secret-a")
    assert held is not None
    ann = held.principal
    assert (ann.name, ann.klass, ann.default_class, ann.weight) == ("ann", "interactive", "interactive", 3.0)  # fmt: skip
    assert KEYRING.find("secret-A") is None
    assert KEYRING.find("\udcff") is None
    assert "secret" not in repr(vars(KEYRING))


@pytest.mark.parametrize(
    "header", ["Bearer nobody", "Bearer", "Basic c2VjcmV0LWE6", "secret-a", ""]
)
async def test_a_wrong_key_is_refused_on_loopback_too(
    http: aiohttp.ClientSession, header: str
) -> None:
    for path in ("/v1/models", "/metrics", "/nowhere"):
        async with http.get(path, headers={"Authorization": header}) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            error = (await answer.json())["error"]
            assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")


async def test_without_a_key_loopback_is_trusted(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    async with http.post("/v1/completions", json=BODY) as answer:
        assert answer.status == 200
    assert serving.requests[0].principal is LOCAL


async def test_what_comes_through_a_proxy_is_not_local(http: aiohttp.ClientSession) -> None:
    through = {"X-Forwarded-For": "203.0.113.9"}
    async with http.get("/v1/models", headers=through) as answer:
        assert answer.status == 401
        assert (await answer.json())["error"]["code"] == "missing_api_key"
    async with http.get("/v1/models", headers={**through, **bearer("secret-a")}) as answer:
        assert answer.status == 200
    async with http.get("/readyz", headers=through) as answer:
        assert answer.status == 200


async def test_without_any_keys_what_clients_send_means_nothing(serving: FakeServing) -> None:
    async with ApiServer(serving) as server, server.http() as http:
        async with http.get("/v1/models", headers=bearer("anything")) as answer:
            assert answer.status == 200
        async with http.get("/v1/models", headers={"Forwarded": "for=1.2.3.4"}) as answer:
            assert answer.status == 401
    insecure = ApiOptions(insecure=True)
    async with (
        ApiServer(serving, options=insecure) as server,
        server.http() as http,
        http.get("/v1/models", headers={"Forwarded": "for=1.2.3.4"}) as answer,
    ):
        assert answer.status == 200


def test_other_machines_need_a_key() -> None:
    with pytest.raises(Unauthorized, match="needs a key"):
        key_of(None, KEYRING, None)
    with pytest.raises(Unauthorized, match="there are no keys"):
        key_of("Bearer x", Keyring(), None)
    assert key_of("bearer  secret-b ", KEYRING, None) == "secret-b"
    assert key_of("Bearer none", Keyring(), LOCAL) is None
    assert key_of("Bearer hearth_x", Keyring(), LOCAL) == "hearth_x"  # given out once, and revoked


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        (("127.0.0.1", 1), True),
        (("127.8.9.1", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("::ffff:10.0.0.1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 2), False),
        (("10.0.0.1", 1), False),
        (("localhost", 1), False),
        ("", False),
        (None, False),
    ],
)
def test_addresses_of_this_machine(peer: object, local: bool) -> None:
    found = peer_of(None, peer)
    assert (found is not None and is_loopback(str(found))) is local


async def test_a_key_sees_and_uses_its_models_only(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    async with http.get("/v1/models", headers=bearer("secret-b")) as answer:
        assert [model["id"] for model in (await answer.json())["data"]] == ["small"]
    async with http.get("/v1/models/canary", headers=bearer("secret-b")) as answer:
        assert answer.status == 403
        assert (await answer.json())["error"]["code"] == "model_not_allowed"


# --- how urgent it is ----------------------------------------------------------------------------

ANN, BOB = Principal("ann"), Principal("bob", klass="batch", default_class="batch")


def test_the_class_is_the_keys_own_until_another_is_asked_for() -> None:
    assert class_of(None, None, ANN) == "normal"
    assert class_of(None, None, BOB) == "batch"
    assert class_of(None, "auto", BOB) == "batch"
    assert class_of(None, "default", ANN) == "normal"
    assert class_of(None, "flex", ANN) == "batch"
    assert class_of(None, "priority", ANN) == "interactive"
    assert class_of(" Batch", "priority", ANN) == "batch"


@pytest.mark.parametrize(("header", "tier"), [("normal", None), (None, "priority")])
def test_more_than_the_key_may_ask_for_is_refused(header: str | None, tier: str | None) -> None:
    with pytest.raises(Forbidden, match="may ask for batch at most") as refused:
        class_of(header, tier, BOB)
    assert refused.value.code == "class_not_allowed"


@pytest.mark.parametrize(("header", "tier"), [("urgent", None), (None, "gold"), ("", None)])
def test_a_class_that_is_none(header: str | None, tier: str | None) -> None:
    with pytest.raises(InvalidRequest, match="must be one of"):
        class_of(header, tier, ANN)


async def test_class_and_deadline_reach_serving(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    headers = {**bearer("secret-a"), "X-Request-Class": "batch", "X-Request-Deadline": "20"}
    before = time.monotonic()
    async with http.post("/v1/completions", json=BODY, headers=headers) as answer:
        assert answer.status == 200
    request = serving.requests[0]
    assert (request.klass, request.principal.name) == ("batch", "ann")
    assert request.submit.deadline_seconds == pytest.approx(before + 20, abs=5)
    headers["X-Request-Class"] = "sometime"
    async with http.post("/v1/completions", json=BODY, headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "X-Request-Class"


# --- until when ----------------------------------------------------------------------------------

NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("2.5", 2.5),
        (" 30 ", 30.0),
        ("1790000010.25", 10.25),
        ("1789999990", -10.0),
        ("2026-09-21T14:13:30Z", 10.0),
        ("2026-09-21t16:13:20.5+02:00", 0.5),
        ("2026-09-21 14:13:10z", -10.0),
        ("Mon, 21 Sep 2026 14:13:21 GMT", 1.0),
    ],
)
def test_deadlines(text: str, seconds: float) -> None:
    assert seconds_until(text, NOW) == pytest.approx(seconds, abs=1e-4)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-1", "1e3", "inf", "nan", "2026-09-21T14:13:30", "2026-09-21", "2026-13-01T00:00:00Z",
     "Mon, 21 Foo 2026 14:13:21 GMT", "Mon, 99 Sep 2026 14:13:21 GMT", "٣", "1_0", "5s"],
)  # fmt: skip
def test_deadlines_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="X-Request-Deadline"):
        seconds_until(text, NOW)


# --- what is left --------------------------------------------------------------------------------


async def test_limits_are_told_with_each_answer(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    async with http.get("/v1/models", headers=bearer("secret-b")) as answer:
        told = {name: value for name, value in answer.headers.items() if "ratelimit" in name}
    assert told == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "600",
        "x-ratelimit-reset-tokens": "0ms",
    }
    async with http.get("/v1/models", headers=bearer("secret-a")) as answer:
        assert not [name for name in answer.headers if "ratelimit" in name]


async def test_more_choices_than_may_ever_run_are_no_rate_limit(
    http: aiohttp.ClientSession,
) -> None:
    body = {"model": "small", "prompt": "x", "n": 3}
    async with http.post("/v1/completions", json=body, headers=bearer("secret-b")) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "n"


def test_words_for_what_is_left() -> None:
    assert [duration(s) for s in (0.02, 1.0, 6.5, 60.0, 90.25)] == ["20ms", "1s", "6.5s", "1m0s", "1m30.25s"]  # fmt: skip
    assert rate_headers(Standing("k", None, 3, None, None, None)) == {}
    assert (
        rate_headers(Standing("k", 2, 3, None, None, None))["x-ratelimit-remaining-requests"] == "0"
    )
