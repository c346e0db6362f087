"""A real `hearthd` whose device goes while models answer on it, and comes back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from fake_machine import FakeMachine
from hearthd_process import PATIENCE_SECONDS, Daemon, running

ASK = {"prompt": "begin", "max_tokens": 150, "temperature": 0, "ignore_eos": True}


class TwoNodes(FakeMachine):
    """Two memory nodes with a processor each; the second can be taken out."""

    def plug(self) -> None:
        self.host(nodes=((0,), (1,)))

    def unplug(self) -> None:
        self.remove("sys/devices/system/node/node1")
        self.host(nodes=((0,),))


@pytest.fixture
def machine(short_path: Path) -> TwoNodes:
    machine = TwoNodes(short_path / "machine")
    machine.plug()
    return machine


@pytest.fixture
def box(short_path: Path, machine: TwoNodes) -> Iterator[Daemon]:
    settings = [
        f"hardware.root={machine.root}",
        "hardware.checkup=false",
        "hardware.poll_seconds=0.2",
        "cache.enabled=false",
        "models.free.path=sim:latency_ms=20",
        'models.free.prefer=["cpu:1"]',
        "models.bound.path=sim:latency_ms=20",
        'models.bound.require=["cpu:1"]',
        "models.named.path=sim:latency_ms=20",
        'models.named.devices=["cpu:1"]',
    ]
    flags = [part for setting in settings for part in ("--set", setting)]
    with running(short_path, *flags) as daemon:
        daemon.until_ready()
        yield daemon


class Stream(threading.Thread):
    """Reads one answer as it comes."""

    def __init__(self, box: Daemon, model: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.begun = threading.Event()
        self._address = box.address()
        self._body = json.dumps({**ASK, "model": model, "stream": True})
        self.start()

    def run(self) -> None:
        connection = HTTPConnection(self._address, timeout=PATIENCE_SECONDS)
        connection.request("POST", "/v1/completions", self._body)
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                self.events.append(json.loads(line[6:]))
                self.texts += [choice["text"] for choice in self.events[-1].get("choices", ())]
                self.begun.set()
        connection.close()

    def read(self) -> str:
        self.join(PATIENCE_SECONDS)
        assert not self.is_alive()
        return "".join(self.texts)


def device_of(box: Daemon, model: str) -> str:
    (place,) = box.model(model)["plans"][0]["places"]
    return str(place["device"])


@pytest.mark.slow
def test_streams_go_on_elsewhere_and_what_is_bound_says_so(box: Daemon, machine: TwoNodes) -> None:
    assert [device_of(box, model) for model in ("free", "bound", "named")] == ["cpu:1"] * 3
    whole = box.get("/v1/completions", {**ASK, "model": "free"})[1]["choices"][0]["text"]
    streams = {model: Stream(box, model) for model in ("free", "bound", "named")}
    for stream in streams.values():
        assert stream.begun.wait(PATIENCE_SECONDS)
    machine.unplug()

    assert streams["free"].read() == whole
    assert device_of(box, "free") == "cpu:0"
    for model in ("bound", "named"):
        assert whole.startswith(streams[model].read())
        assert streams[model].events[-1]["error"]["code"] == "device_unavailable"
        status, refusal = box.get("/v1/completions", {**ASK, "model": model})
        assert (status, refusal["error"]["code"]) == (503, "device_unavailable")
        assert "cpu:1" in refusal["error"]["message"]

    machine.plug()
    for model in ("bound", "named"):
        box.until(lambda model=model: box.model(model)["state"] == "ready")  # type: ignore[misc]
    box.until(lambda: device_of(box, "free") == "cpu:1")
    box.until(lambda: box.model("free")["state"] == "ready")
    for model in ("free", "bound", "named"):
        answer = box.get("/v1/completions", {**ASK, "model": model})[1]
        assert answer["choices"][0]["text"] == whole
        assert device_of(box, model) == "cpu:1"
