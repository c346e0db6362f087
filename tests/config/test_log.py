"""Log lines: JSON with fields and the request's id, or text for people; and the service manager."""

from __future__ import annotations

import json
import logging
import socket
from io import StringIO
from pathlib import Path

import pytest

from hearthd import log
from hearthd.systemd import Notifier


def record(message: str = "hi %s", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("hearthd.x", logging.WARNING, "f.py", 1, message, ("you",), None)
    vars(made).update(extra)
    return made


def test_json_has_the_fields_and_the_request() -> None:
    token = log.request_id.set("req-1")
    try:
        line = json.loads(log.JsonFormatter().format(record(model="m", path=Path("/x"))))
    finally:
        log.request_id.reset(token)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning", "logger": "hearthd.x", "message": "hi you", "model": "m",
        "path": "/x", "request_id": "req-1",
    }  # fmt: skip


def test_json_carries_the_traceback_on_one_line() -> None:
    made = record()
    try:
        raise ValueError("broken")
    except ValueError as error:
        made.exc_info = (ValueError, error, error.__traceback__)
    text = log.JsonFormatter().format(made)
    assert "\n" not in text
    assert "ValueError: broken" in json.loads(text)["exception"]


def test_text_is_for_people() -> None:
    text = log.TextFormatter().format(record(model="m"))
    assert text.endswith("WARNING hearthd.x: hi you model=m")


@pytest.mark.parametrize(("kind", "is_json"), [("auto", True), ("json", True), ("text", False)])
def test_what_is_no_terminal_gets_json(kind: log.LogFormat, is_json: bool) -> None:
    stream = StringIO()
    log.set_up("info", kind, stream)
    logging.getLogger("hearthd.x").info("hello")
    logging.getLogger("hearthd.x").debug("not shown")
    assert stream.getvalue().startswith("{") == is_json
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(short_path: Path, abstract: bool) -> None:
    path = str(short_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + path if abstract else path)
        notifier = Notifier({"NOTIFY_SOCKET": "@" + path if abstract else path})
        notifier.ready("m loading")
        notifier.status("m ready")
        notifier.stopping("bye")
        told = [manager.recv(1000).decode() for _ in range(3)]
    assert told == ["READY=1\nSTATUS=m loading", "STATUS=m ready", "STOPPING=1\nSTATUS=bye"]


def test_no_service_manager_or_a_broken_one_is_no_harm(short_path: Path) -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(short_path / "absent")}).ready("x")
