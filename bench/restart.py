#!/usr/bin/env python3
"""A system prompt over a restart of hearthd: how much of it is computed again, and how long that takes.

Some requests with the same system prompt are sent, hearthd is ended (--kill: with SIGKILL, once it
has been idle) and started again in the same state directory, and another request follows.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from hearth_bench.daemon import Daemon, plan_daemon
from hearth_bench.endpoint import EndpointError
from hearth_bench.prompts import random_ids
from hearth_bench.server import connection, get, running

BLOCK_TOKENS = 16
_CHILDREN_END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of one output token."""

    n_prompt: int
    n_cached: int
    seconds: float

    @property
    def n_computed(self) -> int:
        return self.n_prompt - self.n_cached


@dataclass(frozen=True, slots=True)
class Restart:
    """Requests before a restart and the first one after it."""

    n_suffix: int
    before: list[Asked]
    after: Asked
    ready_seconds: float  # of the second start
    stored_bytes: int  # in the state directory

    @property
    def target_tokens(self) -> int:
        return BLOCK_TOKENS + self.n_suffix


def main(argv: list[str] | None = None) -> int:
    """Measure and print; with --check, 1 when more is computed than one block and the suffix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", metavar="NAME=PATH", help="default: the built-in one")
    parser.add_argument("--system-tokens", type=int, default=2000)
    parser.add_argument("--suffix-tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2, help="before the restart")
    parser.add_argument("--ids", type=int, nargs=2, default=(97, 123), metavar=("LOW", "HIGH"))
    parser.add_argument("--kill", action="store_true", help="end hearthd with SIGKILL")
    parser.add_argument("--idle-seconds", type=float, default=5.0, help="before a kill")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--cmd", help="how to start hearthd (default: this Python)")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            daemon = plan_daemon(Path(folder), given.model, given.settings, given.cmd)
            restart = _measure(daemon, Path(folder), given)
    except (EndpointError, OSError) as error:
        print(f"restart.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(asdict(restart), indent=2) if given.json else _as_text(restart))
    return 1 if given.check and restart.after.n_computed > restart.target_tokens else 0


def _measure(daemon: Daemon, folder: Path, given: argparse.Namespace) -> Restart:
    rng = Random(0)
    ids = (given.ids[0], given.ids[1])
    system = random_ids(rng, given.system_tokens, ids)

    def ask() -> Asked:
        return _ask(daemon, [*system, *random_ids(rng, given.suffix_tokens, ids)])

    with running(daemon.command, daemon.endpoint, daemon.log) as server:
        _ask(daemon, random_ids(rng, 64, ids))  # what only the very first request pays
        before = [ask() for _ in range(given.requests)]
        if given.kill:
            time.sleep(given.idle_seconds)
            os.kill(server.pid, signal.SIGKILL)
            time.sleep(_CHILDREN_END_SECONDS)
    stored = sum(path.stat().st_size for path in (folder / "state").rglob("*.prefix"))
    with running(daemon.command, daemon.endpoint, daemon.log) as server:
        ready_seconds = time.perf_counter() - server.started_seconds
        return Restart(given.suffix_tokens, before, ask(), ready_seconds, stored)


def _ask(daemon: Daemon, prompt: list[int]) -> Asked:
    body = {"model": _first_model(daemon), "prompt": prompt, "max_tokens": 1, "ignore_eos": True}
    link = connection(daemon.endpoint, timeout_seconds=600.0)
    began = time.perf_counter()
    try:
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
        link.request("POST", "/v1/completions", json.dumps(body), headers)
        response = link.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
    finally:
        link.close()
    seconds = time.perf_counter() - began
    if response.status != 200:
        raise EndpointError(f"{response.status}: {answer}")
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return Asked(usage["prompt_tokens"], cached, seconds)


def _first_model(daemon: Daemon) -> str:
    answer = get(daemon.endpoint, "/v1/models")
    if answer is None or answer[0] != 200:
        raise EndpointError(f"/v1/models answered {answer}")
    return str(json.loads(answer[1])["data"][0]["id"])


def _as_text(restart: Restart) -> str:
    rows = [(f"request {i}", asked) for i, asked in enumerate(restart.before, 1)]
    rows.append(("after the restart", restart.after))
    lines = [f"{'':<18}{'prompt':>8}{'cached':>8}{'computed':>10}{'ms':>10}"]
    lines += [
        f"{name:<18}{a.n_prompt:>8}{a.n_cached:>8}{a.n_computed:>10}{a.seconds * 1000:>10.1f}"
        for name, a in rows
    ]
    lines.append(
        f"target: at most {restart.target_tokens} computed; {restart.stored_bytes / 1e6:.1f} MB on disk, "
        f"ready {restart.ready_seconds:.1f} s after exec"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
