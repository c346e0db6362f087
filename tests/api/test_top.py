"""What operators watch and do over HTTP: one answer for all of it, and who may see which part."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession
from api_server import ApiServer
from fake_serving import FakeServing, model_status

from hearthd import log
from hearthd.access.keyring import Keyring
from hearthd.config import KeyConfig
from hearthd.config.schema import Role
from hearthd.hardware.device import Device, Reading
from hearthd.serving.under_way import UnderWay
from hearthd.telemetry.alerts import (
    Alert,
    cache_alerts,
    device_alerts,
    disk_alerts,
    in_order,
    model_alerts,
    quarantine_alerts,
)

GIB = 1 << 30
REQUEST = UnderWay(
    number=7, request_id="req-1", key="kitchen", klass="normal", model="canary", asked="text",
    running=True, n_prompt=5, n_cached=0, n_output=3, ttft_seconds=0.1, tokens_per_second=20.0,
    age_seconds=0.2,
)  # fmt: skip


@pytest.fixture
def line() -> Iterator[logging.Logger]:
    """A logger whose lines are kept, as those of a daemon are."""
    logger, handler = logging.getLogger("hearthd.test_top"), log.TailHandler(log.tail)
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield logger
    logger.removeHandler(handler)


@asynccontextmanager
async def asking(serving: FakeServing, role: Role) -> AsyncIterator[ClientSession]:
    """A client with a key of this role."""
    digest = hashlib.sha256(b"secret").hexdigest()
    keyring = Keyring({"me": KeyConfig(hash=digest, role=role)})
    async with ApiServer(serving, keyring=keyring) as server, server.http() as http:
        http.headers["Authorization"] = "Bearer secret"
        yield http


async def top(http: ClientSession, **query: str) -> dict[str, Any]:
    async with http.get("/api/v1/top", params=query) as answer:
        assert answer.status == 200, await answer.text()
        shown: dict[str, Any] = await answer.json()
        return shown


async def test_an_operator_sees_all_of_it(serving: FakeServing, line: logging.Logger) -> None:
    serving.statuses = (model_status(pinned=True), model_status("bad", state="failed", error="no"))
    serving.going = [REQUEST]
    line.warning("careful", extra={"model": "canary"})
    async with asking(serving, "operator") as http:
        shown = await top(http)
        assert (shown["role"], shown["n_requests"]) == ("operator", 1)
        assert shown["started"] <= shown["now"]
        assert [(m["name"], m["pinned"], m["hearth"]["state"]) for m in shown["models"]] == [
            ("canary", True, "ready"),
            ("bad", False, "failed"),
        ]
        assert shown["models"][0]["hearth"]["stages"] == [
            {"backend": "sim", "device": "cpu:0", "layers": [0, 4]}
        ]
        assert shown["requests"][0]["class"] == "normal"
        assert shown["alerts"] == [
            {"level": "critical", "kind": "model_failed", "subject": "bad", "message": "no"}
        ]
        latest = shown["log"][-1]
        assert (latest["level"], latest["message"]) == ("warning", "careful model=canary")
        line.info("later")
        (only,) = (await top(http, log_after=str(latest["number"])))["log"]
        assert only["message"] == "later"


async def test_who_only_looks_sees_no_log_and_does_nothing(serving: FakeServing) -> None:
    serving.going = [REQUEST]
    async with asking(serving, "readonly") as http:
        assert (await top(http))["log"] is None
        async with http.post("/api/v1/models/canary/unload") as answer:
            assert answer.status == 403
        async with http.delete("/api/v1/requests/7") as answer:
            assert answer.status == 403
    assert serving.operated == []


async def test_a_user_does_not_see_what_others_do(serving: FakeServing) -> None:
    async with asking(serving, "user") as http, http.get("/api/v1/top") as answer:
        assert answer.status == 403


async def test_what_operators_do(serving: FakeServing) -> None:
    serving.statuses = (model_status("org/m"),)
    serving.going = [REQUEST]
    async with asking(serving, "operator") as http:
        async with http.post("/api/v1/models/org/m/unload?drain_seconds=2.5") as answer:
            assert answer.status == 202
            assert await answer.json() == {"name": "org/m", "state": "ready", "pinned": False}
        async with http.delete("/api/v1/requests/7") as answer:
            assert (answer.status, await answer.json()) == (200, {"number": 7})
    assert serving.operated == [("org/m", "unload", 2.5)]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/v1/models/canary/explode", 404),
        ("POST", "/api/v1/models/nobody/load", 404),
        ("POST", "/api/v1/models/canary/unload?drain_seconds=soon", 400),
        ("POST", "/api/v1/models/canary/unload?drain_seconds=nan", 400),
        ("DELETE", "/api/v1/requests/8", 404),
        ("DELETE", "/api/v1/requests/x", 400),
        ("GET", "/api/v1/top?log_after=-1", 400),
        ("GET", f"/api/v1/top?log_after={'9' * 5000}", 400),  # which int() does not read
    ],
)
async def test_what_is_refused(serving: FakeServing, method: str, path: str, status: int) -> None:
    async with asking(serving, "operator") as http, http.request(method, path) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["message"]


# --- alerts --------------------------------------------------------------------------------------


def test_the_gravest_come_first() -> None:
    models = [
        model_status("out", state="unloaded", answers=False),
        model_status("silent", answers=False, error="nothing for 3 s"),
        model_status("well"),
    ]
    hot = Device(
        name="gpu:0", identity="i", kind="gpu", vendor="v", description="d", state="silent",
        problem="no answer", reading=Reading(temperature_celsius=95.0),
    )  # fmt: skip
    alerts = in_order(
        [
            *model_alerts(models),
            *device_alerts([hot]),
            *quarantine_alerts({"onnx gpu:0": "wrong numbers"}),
            *cache_alerts({"full": 2, "slow": 0}),
        ]
    )
    assert [(alert.level, alert.kind) for alert in alerts] == [
        ("critical", "model_silent"),
        ("warning", "device_silent"),
        ("warning", "device_hot"),
        ("warning", "quarantined"),
        ("warning", "cache_fault"),
        ("info", "model_unloaded"),
    ]


@pytest.mark.parametrize(
    ("free_bytes", "total_bytes", "kind"),
    [
        (10 << 20, 100 * GIB, "disk_full"),
        (GIB // 2, 100 * GIB, "disk_low"),
        (GIB // 2, GIB, None),
        (50 * GIB, 100 * GIB, None),
        (None, None, None),
    ],
)
def test_room_for_state(free_bytes: int | None, total_bytes: int | None, kind: str | None) -> None:
    alerts: list[Alert] = disk_alerts("/state", free_bytes, total_bytes)
    assert [alert.kind for alert in alerts] == ([] if kind is None else [kind])


# --- the log's tail ------------------------------------------------------------------------------


def test_the_tail_keeps_the_latest() -> None:
    tail = log.Tail(n_lines=3)
    for number in range(5):
        tail.add(logging.makeLogRecord({"msg": f"line {number}", "levelname": "INFO"}))
    assert [line.message for line in tail.after(0, 10)] == ["line 2", "line 3", "line 4"]
    assert [line.number for line in tail.after(4, 10)] == [5]
    assert [line.number for line in tail.after(0, 1)] == [5]
    assert tail.after(0, 0) == []
