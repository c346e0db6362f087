#!/usr/bin/env python3
"""hearthd from exec to ready: when it accepts, what it weighs, and how fast /v1/models answers meanwhile.

Afterwards one request is sent, its engine is stopped with SIGSTOP, and /v1/models is asked again.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from hearth_bench.daemon import Daemon, plan_daemon
from hearth_bench.endpoint import EndpointError
from hearth_bench.server import Server, connection, get
from hearth_bench.stats import Summary, summarize

ACCEPT_SECONDS, RSS_BYTES, MODELS_SECONDS = 1.0, 120_000_000, 0.05
_EVERY_SECONDS = 0.02  # between two probes


@dataclass(frozen=True, slots=True)
class Startup:
    """What was seen of one start."""

    accept_seconds: float  # from exec to the first connection
    live_seconds: float  # to /livez 200
    ready_seconds: float  # to /readyz 200
    progress_seen: bool  # /readyz was 503 before, and told how far the load was
    rss_bytes: int  # of hearthd alone, the most that was seen
    models_loading: Summary | None  # seconds of /v1/models
    models_ready: Summary | None
    models_hung: Summary | None

    def misses(self) -> list[str]:
        """Targets that were not reached, in words."""
        found = []
        if self.accept_seconds > ACCEPT_SECONDS:
            found.append(f"accepts after {self.accept_seconds:.2f} s > {ACCEPT_SECONDS}")
        if self.rss_bytes > RSS_BYTES:
            found.append(f"rss {self.rss_bytes / 1e6:.0f} MB > {RSS_BYTES / 1e6:.0f}")
        for name in ("loading", "ready", "hung"):
            summary: Summary | None = getattr(self, f"models_{name}")
            if summary is not None and summary.max > MODELS_SECONDS:
                found.append(f"/v1/models took {summary.max * 1000:.0f} ms while {name}")
        return found


def main(argv: list[str] | None = None) -> int:
    """Measure one start and print it; with --check, 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", metavar="NAME=PATH", help="default: the built-in one")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--cmd", help="how to start hearthd (default: this Python)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of probing ready, and hung")
    parser.add_argument("--load-seconds", type=float, default=300.0, help="to wait at most")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        daemon = plan_daemon(Path(folder), given.model, given.settings, given.cmd)
        server = Server(daemon.command, daemon.log)
        try:
            startup = _measure(server, daemon, given.seconds, given.load_seconds)
        except (EndpointError, OSError) as error:
            print(f"startup.py: {error}", file=sys.stderr)
            return 2
        finally:
            server.stop()
    print(json.dumps(asdict(startup), indent=2) if given.json else _as_text(startup))
    for miss in startup.misses():
        print(f"missed: {miss}", file=sys.stderr)
    return 1 if given.check and startup.misses() else 0


def _measure(server: Server, daemon: Daemon, seconds: float, load_seconds: float) -> Startup:
    accept = _wait_accept(server, daemon.port)
    endpoint = daemon.endpoint
    while (live := get(endpoint, "/livez")) is None or live[0] != 200:
        server.check()
    live_seconds = time.perf_counter() - server.started_seconds
    probe = _Probe(server, daemon)
    progress_seen = False
    while (ready := get(endpoint, "/readyz")) is None or ready[0] != 200:
        progress_seen = progress_seen or (ready is not None and b"progress" in ready[1])
        probe.once()
        if time.perf_counter() - server.started_seconds > load_seconds:
            raise EndpointError(f"not ready after {load_seconds:.0f} s")
    ready_seconds = time.perf_counter() - server.started_seconds
    loading = probe.summary()
    probe.during(seconds)
    at_rest = probe.summary()
    with _hung_engine(daemon):
        probe.during(seconds)
    return Startup(
        accept_seconds=accept,
        live_seconds=live_seconds,
        ready_seconds=ready_seconds,
        progress_seen=progress_seen,
        rss_bytes=probe.rss_bytes,
        models_loading=loading,
        models_ready=at_rest,
        models_hung=probe.summary(),
    )


def _wait_accept(server: Server, port: int) -> float:
    while True:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return time.perf_counter() - server.started_seconds
        server.check()
        time.sleep(0.001)


class _Probe:
    """Asks /v1/models over and over, each time on a fresh connection, and watches hearthd's memory."""

    def __init__(self, server: Server, daemon: Daemon) -> None:
        self._server = server
        self._daemon = daemon
        self._process = psutil.Process(server.pid)
        self._seconds: list[float] = []
        self.rss_bytes = 0

    def once(self) -> None:
        """One question; raises EndpointError where it is not answered with 200."""
        began = time.perf_counter()
        answer = get(self._daemon.endpoint, "/v1/models")
        self._seconds.append(time.perf_counter() - began)
        self._server.check()
        if answer is None or answer[0] != 200:
            raise EndpointError(f"/v1/models answered {answer}")
        self.rss_bytes = max(self.rss_bytes, self._process.memory_info().rss)
        time.sleep(_EVERY_SECONDS)

    def during(self, seconds: float) -> None:
        """Questions for so long."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self.once()

    def summary(self) -> Summary | None:
        """Of the questions since the last summary."""
        found, self._seconds = summarize(self._seconds), []
        return found


@contextmanager
def _hung_engine(daemon: Daemon) -> Iterator[None]:
    """A request is under way, and the engine that has it does not move."""
    model = _first_model(daemon)
    body = {"model": model["id"], "prompt": "Sing!", "max_tokens": 200, "ignore_eos": True}
    link: http.client.HTTPConnection = connection(daemon.endpoint)
    link.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    pid = int(model["hearth"]["engine_pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        link.close()
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGCONT)


def _first_model(daemon: Daemon) -> dict[str, Any]:
    answer = get(daemon.endpoint, "/v1/models")
    if answer is None:
        raise EndpointError("/v1/models does not answer")
    found: dict[str, Any] = json.loads(answer[1])["data"][0]
    return found


def _as_text(startup: Startup) -> str:
    def models(summary: Summary | None) -> str:
        if summary is None:
            return "-"
        return (
            f"p50 {summary.p50 * 1000:.2f} ms, most {summary.max * 1000:.2f} ms, {summary.n} times"
        )

    return "\n".join(
        [
            f"accepts after      {startup.accept_seconds:.3f} s (target <= {ACCEPT_SECONDS})",
            f"/livez 200 after   {startup.live_seconds:.3f} s",
            f"/readyz 200 after  {startup.ready_seconds:.3f} s (progress told: {startup.progress_seen})",
            f"rss of hearthd     {startup.rss_bytes / 1e6:.1f} MB (target <= {RSS_BYTES / 1e6:.0f})",
            f"/v1/models loading {models(startup.models_loading)} (target < 50 ms)",
            f"/v1/models ready   {models(startup.models_ready)}",
            f"/v1/models hung    {models(startup.models_hung)}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
