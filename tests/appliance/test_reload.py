"""SIGHUP: a good configuration counts at once, a bad one is refused whole, and the service manager is told."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hearthd_process import Daemon, running
from openai import APIStatusError, OpenAI
from service_manager_end import ManagerEnd

FIRST = """
[models.a]
path = "sim:"

[hardware]
checkup = false
"""


class Box:
    """A daemon with a configuration file, under a service manager that listens."""

    def __init__(self, daemon: Daemon, file: Path, manager: ManagerEnd) -> None:
        self.daemon = daemon
        self.file = file
        self.manager = manager
        self.n_reloads = 0

    def reload(self, text: str) -> str:
        """Write a configuration, have it read, and return the status that is told after it."""
        self.file.write_text(text)
        return self.hang_up()

    def hang_up(self) -> str:
        self.n_reloads += 1
        self.daemon.process.send_signal(signal.SIGHUP)
        done = self.n_reloads + 1  # the start was ready, too
        self.daemon.until(lambda: self.manager.count(READY="1") == done, 0.01)
        assert self.manager.count(RELOADING="1") == self.n_reloads
        told = [message for message in self.manager.heard if message.get("READY") == "1"]
        return told[-1]["STATUS"]

    def models(self) -> dict[str, str]:
        ready: list[dict[str, Any]] = self.daemon.get("/readyz")[1]["models"]
        return {model["name"]: model["state"] for model in ready}

    def until_ready(self, *names: str) -> None:
        wanted = dict.fromkeys(names, "ready")
        self.daemon.until(lambda: self.models() == wanted and self.daemon.get("/readyz")[0] == 200)

    def logged(self, text: str) -> bool:
        return any(text in line["message"] for line in self.daemon.log)


@pytest.fixture
def box(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    file = short_path / "hearthd.toml"
    file.write_text(FIRST)
    with ManagerEnd(short_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        with running(short_path, "--config", str(file)) as daemon:
            box = Box(daemon, file, manager)
            daemon.until(lambda: manager.count(READY="1") == 1)
            box.until_ready("a")
            yield box


def test_models_come_go_and_change(box: Box) -> None:
    pid = box.daemon.model("a")["engine_pid"]
    box.reload(FIRST + '[models.b]\npath = "sim:"\naliases = ["bee"]\n')
    box.until_ready("a", "b")
    assert box.daemon.model("a")["engine_pid"] == pid  # nobody touched it
    assert (
        box.daemon.get("/v1/completions", {"model": "bee", "prompt": "x", "max_tokens": 2})[0]
        == 200
    )
    assert box.logged("models added: b")
    box.reload(FIRST.replace("sim:", "sim:latency_ms=1"))
    assert box.daemon.get("/v1/completions", {"model": "b", "prompt": "x"})[0] == 404
    box.daemon.until(lambda: box.daemon.model("a")["engine_pid"] not in (pid, None))
    box.until_ready("a")
    assert box.logged("models removed: b; models loaded anew: a")


def test_a_bad_one_is_refused_whole(box: Box) -> None:
    pid = box.daemon.model("a")["engine_pid"]
    changed = FIRST.replace("sim:", "sim:latency_ms=1")
    for text, why in (
        ("[models.a\n", "hearthd.toml"),
        ("[stop]\ndrain_second = 1\n", "drain_seconds"),
        ('[models.b]\npath = "/absent/b.gguf"\n', "models.b.path: there is no /absent/b.gguf"),
        ('[keys.x]\nhash = "12"\n', "keys.x.hash"),
    ):
        status = box.reload(text + changed)
        assert status.startswith("reload refused: ")
        assert why in status
        assert status.endswith("; ready: 1 model")
    assert box.daemon.model("a")["engine_pid"] == pid
    assert box.logged("the new configuration is refused, the old one stays in force")
    assert box.reload(FIRST) == "ready: 1 model"


def test_keys_and_limits_count_at_once(box: Box) -> None:
    box.reload(FIRST + f'[keys.k]\nhash = "{hash_of("one")}"\nlimits.concurrency = 3\n')
    assert asked_with(box, "one") == (200, "3")
    assert asked_with(box, "two")[0] == 401
    box.reload(FIRST + f'[keys.k]\nhash = "{hash_of("two")}"\nlimits.concurrency = 5\n')
    assert asked_with(box, "one")[0] == 401
    assert asked_with(box, "two") == (200, "5")
    box.reload(FIRST)
    assert asked_with(box, "two")[0] == 200  # without any key, what is sent as one means nothing


def test_the_log_level_counts_at_once(box: Box) -> None:
    box.reload(FIRST + '[log]\nlevel = "error"\n')
    n_lines = len(box.daemon.log)
    box.hang_up()
    assert len(box.daemon.log) == n_lines  # it would say that it has read the configuration
    box.reload(FIRST)
    assert len(box.daemon.log) > n_lines


def test_settings_of_batches_count_at_once(box: Box) -> None:
    with OpenAI(base_url=f"http://{box.daemon.address()}/v1", api_key="none") as client:
        assert box.reload(FIRST + "[batch]\nfile = 10\n") == "ready: 1 model"
        with pytest.raises(APIStatusError) as refused:
            client.files.create(file=("in.jsonl", b"x" * 11), purpose="batch")
        assert refused.value.status_code == 413
        box.reload(FIRST)
        assert client.files.create(file=("in.jsonl", b"x" * 11), purpose="batch").bytes == 11


def test_what_needs_a_restart_is_named(box: Box) -> None:
    status = box.reload(FIRST + "poll_seconds = 4\n[memory]\nbudget = 5\n")
    assert status == "counts after a restart: memory.budget, hardware.poll_seconds; ready: 1 model"
    assert box.hang_up() == status  # and stays so until there is one
    assert box.reload(FIRST) == "ready: 1 model"
    assert box.daemon.get("/livez")[0] == 200


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def asked_with(box: Box, key: str) -> tuple[int, str | None]:
    """Status, and the limit of requests under way that it tells."""
    connection = HTTPConnection(box.daemon.address(), timeout=20)
    try:
        body = '{"model": "a", "prompt": "x", "max_tokens": 1}'
        connection.request("POST", "/v1/completions", body, {"Authorization": f"Bearer {key}"})
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("x-ratelimit-limit-requests")
    finally:
        connection.close()


def test_a_hang_up_of_the_terminal_does_not_end_it(box: Box) -> None:
    os.kill(box.daemon.process.pid, signal.SIGHUP)
    assert box.daemon.get("/livez")[0] == 200
