"""What systemd is told: patience while it starts, ready when it listens, alive only while there is progress."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hearthd_process import running
from service_manager_end import ManagerEnd, until

from hearthd.service_manager import ServiceManager, status_line
from hearthd.serving.status import ModelState, ModelStatus
from hearthd.systemd import Notifier


@pytest.fixture
def manager_end(short_path: Path) -> Iterator[ManagerEnd]:
    with ManagerEnd(short_path) as end:
        yield end


def model(name: str, state: ModelState, **fields: object) -> ModelStatus:
    known: dict[str, object] = {
        "path": "/m", "phase": None, "progress": None, "error": None, "error_code": None, "info": None,
        "created": 0, "n_running": 0, "n_waiting": 0, "kv_tokens_free": None, "pid": None, "n_restarts": 0,
        "engine_rss_bytes": None, "answers": state == "ready",
    }  # fmt: skip
    return ModelStatus(name=name, state=state, **{**known, **fields})  # type: ignore[arg-type]  # each call gives fields of their type


@pytest.mark.parametrize(
    ("models", "line"),
    [
        ([], "ready: 0 models"),
        ([model("a", "ready")], "ready: 1 model"),
        ([model("a", "ready"), model("b", "ready")], "ready: 2 models"),
        ([model("qwen", "loading", phase="loading", progress=0.43)], "loading qwen: 43 %"),
        (
            [model("a", "ready"), model("b", "loading", phase="starting", progress=0.0)],
            "loading b: 0 % (starting); ready: 1 model",
        ),
        ([model("a", "failed", error="no file")], "ready: 0 models; failed: a (no file)"),
        ([model("a", "restarting")], "restarting a"),
        ([model("a", "ready", answers=False)], "ready: 1 model; not answering: a"),
    ],
)
def test_the_status_says_how_models_are(models: list[ModelStatus], line: str) -> None:
    assert status_line(models) == line


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
    ],
)
def test_the_watchdog_is_fed_by_whom_it_watches(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(environ, pid=7).watchdog_seconds == seconds


def test_a_status_is_one_line(manager_end: ManagerEnd) -> None:
    Notifier({"NOTIFY_SOCKET": str(manager_end.path)}).status("a\nREADY=1")
    assert manager_end.listen() == [{"STATUS": "a READY=1"}]


def test_what_a_full_socket_does_not_take_is_told_later_and_in_order(
    manager_end: ManagerEnd, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(manager_end.path)})
    manager_end.fill()
    notifier.reloading("reading")
    notifier.alive()
    notifier.ready("old")
    notifier.status("newer")
    notifier.status("newest")
    assert manager_end.listen() == []
    assert caplog.text.count("it is told later") == 1
    notifier.alive()
    told = [message | {"MONOTONIC_USEC": "?"} for message in manager_end.listen()]
    assert told == [
        {**said, "MONOTONIC_USEC": "?"}
        for said in (
            {"RELOADING": "1", "STATUS": "reading"},
            {"READY": "1", "STATUS": "old"},
            {"STATUS": "newest"},
            {"WATCHDOG": "1"},
        )
    ]
    notifier.tell_due()
    assert len(manager_end.listen()) == 4


@pytest.mark.parametrize("stalled", [[], ["m"]])
async def test_the_last_status_is_told_at_the_next_beat(
    manager_end: ManagerEnd, stalled: list[str]
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(manager_end.path), "WATCHDOG_USEC": "200000"})
    models: list[ModelStatus] = []
    async with ServiceManager(notifier, lambda: models, lambda _now: stalled) as manager:
        manager.ready()
        await until(lambda: manager_end.count(READY="1", STATUS="ready: 0 models") == 1)
        manager_end.fill()
        models.append(model("a", "ready"))
        manager.reloaded(["once more"])
        assert manager_end.listen()[-1].get("STATUS") != "once more; ready: 1 model"
        await until(lambda: manager_end.count(STATUS="once more; ready: 1 model") == 1)


async def test_a_start_asks_for_patience_until_it_is_ready(manager_end: ManagerEnd) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(manager_end.path), "WATCHDOG_USEC": "200000"})
    async with ServiceManager(notifier, list, lambda _now: []) as manager:
        await until(lambda: manager_end.count(EXTEND_TIMEOUT_USEC="30000000") >= 2)
        assert manager_end.count(READY="1") == 0
        manager.ready()
        assert manager_end.count(READY="1", STATUS="ready: 0 models") == 1
        manager.stopping(40.0)
        assert manager_end.count(EXTEND_TIMEOUT_USEC="40000000") == 1
        assert manager_end.count(STOPPING="1") == 1


def test_a_loop_that_stands_still_starves_the_watchdog(
    short_path: Path, manager_end: ManagerEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager_end.path))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    flags = ("--model", "m=sim:", "--set", "hardware.checkup=false")
    with running(short_path, *flags) as daemon:
        daemon.until(
            lambda: manager_end.count(WATCHDOG="1") >= 3
        )  # read at once: few wait in a socket
        daemon.until(lambda: "ready: 1 model" in manager_end.statuses())
        daemon.until(lambda: manager_end.count(READY="1") == 1)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        assert manager_end.drain(1.0) == []
        os.kill(daemon.process.pid, signal.SIGCONT)
        daemon.until(lambda: manager_end.count(WATCHDOG="1") >= 2)
        daemon.process.terminate()
        assert daemon.process.wait(10) == 0
        assert manager_end.count(STOPPING="1") == 1
        assert manager_end.count(EXTEND_TIMEOUT_USEC="45000000") == 1  # drain 30, stop 5, margin 10
