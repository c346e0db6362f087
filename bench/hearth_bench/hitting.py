"""wrk at one question: hits a second and their latency; and asking one after the other by hand."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.server import connection
from hearthd.cache.tables import SCHEMA

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_LATENCY = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s)", re.MULTILINE)
_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")


@dataclass(frozen=True, slots=True)
class Hits:
    """What wrk measured."""

    n_connections: int
    per_second: float
    p50_seconds: float
    p99_seconds: float


def parse_wrk(text: str, n_connections: int) -> Hits:
    """The figures in wrk's report (--latency); raises EndpointError where an answer was none. Pure."""
    bad = _BAD.search(text)
    if bad is not None:
        raise EndpointError(f"wrk: {bad[0]}")
    rate = _RATE.search(text)
    latencies = {
        percent: float(number) * _UNITS[unit] for percent, number, unit in _LATENCY.findall(text)
    }
    if rate is None or latencies.keys() != {"50", "99"}:
        raise EndpointError(f"wrk said nothing that can be read: {text[-200:]}")
    return Hits(n_connections, float(rate[1]), latencies["50"], latencies["99"])


def hit(
    endpoint: Endpoint,
    body: dict[str, Any],
    *,
    wrk: str,
    n_connections: int,
    seconds: float,
    path: str = "/v1/chat/completions",
) -> Hits:
    """Ask the same over and over with wrk."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(
            'wrk.method = "POST"\n'
            'wrk.headers["Content-Type"] = "application/json"\n'
            f'wrk.headers["Authorization"] = "Bearer {endpoint.api_key or "none"}"\n'
            f"wrk.body = [==[{json.dumps(body)}]==]\n"
        )
        script.flush()
        command = [
            wrk, "-t1", f"-c{n_connections}", f"-d{seconds:.0f}s", "--latency", "--timeout", "30s", "-s", script.name,
            f"{endpoint.root}{path}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EndpointError(f"wrk: {done.stderr.strip() or done.stdout.strip()}")
    return parse_wrk(done.stdout, n_connections)


class Asker:
    """One kept connection; each request waits for the one before."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._link = connection(endpoint, timeout_seconds=120.0)

    def ask(
        self, body: dict[str, Any], path: str = "/v1/chat/completions"
    ) -> tuple[float, str, dict[str, Any]]:
        """Seconds, X-Cache, and the answer; raises EndpointError."""
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self.endpoint.api_key or 'none'}",
        }
        began = time.perf_counter()
        self._link.request("POST", path, json.dumps(body), headers)
        response = self._link.getresponse()
        read = response.read()
        seconds = time.perf_counter() - began
        if response.status != 200:
            raise EndpointError(f"{response.status}: {read[:200]!r}")
        answer: dict[str, Any] = json.loads(read)
        return seconds, response.headers.get("X-Cache", ""), answer

    def close(self) -> None:
        """Close the connection."""
        self._link.close()


def fill(file: Path, n: int) -> None:
    """Put so many small answers into a cache's database, as quickly as can be."""
    SCHEMA.migrate(file)
    connection_ = sqlite3.connect(file)
    connection_.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -1500000;"
    )
    now = time.time()
    connection_.execute(
        "INSERT INTO scopes (id, partition, model, digest) VALUES (1, 'p', 'm', 'd')"
    )
    connection_.executemany(
        "INSERT INTO answers (key, scope, created, used, cost_seconds, n_prompt, n_output, n_bytes,"
        " question, body) VALUES (randomblob(32), 1, ?, ?, 1.0, 10, 20, 700, ?, randomblob(360))",
        ((now, now + i / n, f"question {i}") for i in range(n)),
    )
    connection_.commit()
    connection_.execute("PRAGMA journal_mode = WAL")
    connection_.close()
