#!/usr/bin/env python3
"""The cache of answers: how fast hits are, what a miss costs, and what a million entries do to it.

Hits are measured with wrk against a hearthd on the built-in model; with --litellm also against a LiteLLM
proxy with its exact in-memory cache in front of the same engine, in turn. Misses are new prompts of one
output token, asked of a hearthd with the cache and of one without, in turn. "words" asks the labelled pairs:
one question, then the other, each pair after a system message of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import psutil

from hearth_bench.daemon import free_port, plan_daemon
from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.hitting import Asker, Hits, fill, hit
from hearth_bench.server import running
from hearthd.cache import answers
from hearthd.cache.fingerprint import Scope
from hearthd.cache.tables import SCHEMA
from hearthd.store.database import Database

NAME = "canary"
QUESTION: dict[str, Any] = {
    "model": NAME,
    "messages": [{"role": "user", "content": "copy: abcdefghijklmnop"}],
    "max_tokens": 64,
    "temperature": 0,
}


@dataclass(frozen=True, slots=True)
class Misses:
    """Seconds of requests that were computed, with the cache and without, and what the cache added."""

    with_cache_p50: float
    without_p50: float
    added_p50: float


@dataclass(frozen=True, slots=True)
class Words:
    """The second questions of labelled pairs: which got the answer of the first, and how long that took."""

    n_same: int
    n_hits: int
    n_different: int
    n_false_hits: int
    hit_p50_seconds: float
    hit_p99_seconds: float


@dataclass(frozen=True, slots=True)
class Size:
    """A daemon with an empty cache against one with many entries."""

    n_entries: int
    file_bytes: int
    lookup_p50_seconds: float
    lookup_p99_seconds: float
    added_rss_bytes: int
    added_start_seconds: float


def main(argv: list[str] | None = None) -> int:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", nargs="*", default=["hits", "misses"], help="hits, misses, size, words"
    )
    parser.add_argument("--wrk", default=shutil.which("wrk") or "wrk")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each turn of wrk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300, help="misses")
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--embedder", type=Path, help="a model that compares questions, for words")
    parser.add_argument("--litellm", metavar="PROGRAM", help="compare with this proxy")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    results: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for what in given.what:
                results[what] = _MEASURES[what](Path(folder), given)
    except (EndpointError, OSError, KeyError) as error:
        print(f"cache.py: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({what: asdict(r) if not isinstance(r, list) else [asdict(x) for x in r]
                          for what, r in results.items()}, indent=2))  # fmt: skip
    else:
        for what, result in results.items():
            print(_as_text(what, result))
    return 0


# --- hits --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """One server's hits in one round."""

    server: str
    hits: Hits


def _hits(folder: Path, given: argparse.Namespace) -> list[Turn]:
    daemon = plan_daemon(_sub(folder, "hits"), None, [])
    turns: list[Turn] = []
    with running(daemon.command, daemon.endpoint, daemon.log):
        servers = {"hearthd": daemon.endpoint}
        with _litellm(folder, daemon.endpoint, given.litellm) as proxy:
            if proxy is not None:
                servers["litellm"] = proxy
            for endpoint in servers.values():
                _warm(endpoint)
            for _ in range(given.rounds):
                for n_connections in (1, 4, 64):
                    for name, endpoint in servers.items():
                        turn = hit(
                            endpoint, QUESTION, wrk=given.wrk, n_connections=n_connections,
                            seconds=given.seconds,
                        )  # fmt: skip
                        turns.append(Turn(name, turn))
            if not _hit_of(daemon.endpoint):
                raise EndpointError("hearthd has not answered from its cache")
    return turns


def _warm(endpoint: Endpoint) -> None:
    asker = Asker(endpoint)
    for _ in range(3):
        asker.ask(QUESTION)
        time.sleep(0.5)
    asker.close()


def _hit_of(endpoint: Endpoint) -> bool:
    asker = Asker(endpoint)
    _, result, _ = asker.ask(QUESTION)
    asker.close()
    return result == "HIT"


@contextmanager
def _litellm(folder: Path, engine: Endpoint, program: str | None) -> Iterator[Endpoint | None]:
    """LiteLLM's proxy with its in-memory cache before hearthd, whose own cache it does not see."""
    if program is None:
        yield None
        return
    port = free_port()
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        f"  - model_name: {NAME}\n"
        "    litellm_params:\n"
        f"      model: openai/{NAME}\n"
        f"      api_base: {engine.root}/v1\n"
        "      api_key: none\n"
        "litellm_settings:\n"
        "  cache: true\n"
        "  cache_params:\n"
        "    type: local\n"
        "  telemetry: false\n"
        "general_settings:\n"
        "  master_key: sk-bench\n"
    )
    proxy = Endpoint(f"http://127.0.0.1:{port}", api_key="sk-bench")
    command = f"{program} --config {config} --host 127.0.0.1 --port {port} --num_workers 1"
    with running(command, proxy, folder / "litellm.log", ready_path="/health/liveliness"):
        yield proxy


# --- misses ------------------------------------------------------------------------------------


def _misses(folder: Path, given: argparse.Namespace) -> Misses:
    on = plan_daemon(_sub(folder, "on"), None, [])
    off = plan_daemon(_sub(folder, "off"), None, ["cache.enabled=false"])
    rng = Random(1)
    seconds: dict[str, list[float]] = {"MISS": [], "BYPASS": []}
    with (
        running(on.command, on.endpoint, on.log),
        running(off.command, off.endpoint, off.log),
    ):
        askers = [Asker(on.endpoint), Asker(off.endpoint)]
        for i in range(given.requests + 20):
            prompt = "".join(rng.choice("abcdefgh") for _ in range(24))
            body = {"model": NAME, "prompt": prompt, "max_tokens": 1, "temperature": 0}
            for asker in askers if i % 2 else reversed(askers):
                took, result, _ = asker.ask(body, "/v1/completions")
                if i >= 20:
                    seconds[result].append(took)
        for asker in askers:
            asker.close()
    added = [a - b for a, b in zip(seconds["MISS"], seconds["BYPASS"], strict=True)]
    return Misses(
        statistics.median(seconds["MISS"]),
        statistics.median(seconds["BYPASS"]),
        statistics.median(added),
    )


# --- size --------------------------------------------------------------------------------------


def _size(folder: Path, given: argparse.Namespace) -> Size:
    empty = _sub(folder, "empty")
    full = _sub(folder, "full")
    for place, n in ((empty, 0), (full, given.entries)):
        (place / "state").mkdir()
        fill(place / "state" / "cache.db", n)
    starts: dict[Path, list[float]] = {empty: [], full: []}
    rss: dict[Path, list[int]] = {empty: [], full: []}
    for _ in range(given.rounds):
        for place in (empty, full):
            daemon = plan_daemon(place, None, ["cache.budget=100GiB"])
            with running(daemon.command, daemon.endpoint, daemon.log) as server:
                starts[place].append(time.perf_counter() - server.started_seconds)
                _lookups(daemon.endpoint)
                rss[place].append(psutil.Process(server.pid).memory_info().rss)
    lookups = _bare_lookups(full / "state" / "cache.db")
    return Size(
        given.entries,
        (full / "state" / "cache.db").stat().st_size,
        statistics.median(lookups),
        statistics.quantiles(lookups, n=100)[98],
        round(statistics.median(rss[full]) - statistics.median(rss[empty])),
        statistics.median(starts[full]) - statistics.median(starts[empty]),
    )


def _lookups(endpoint: Endpoint) -> None:
    """Lookups that find nothing, all over the index."""
    asker = Asker(endpoint)
    for i in range(300):
        body = {"model": NAME, "prompt": f"{i}", "max_tokens": 1, "temperature": 0}
        asker.ask(body, "/v1/completions")
    asker.close()


def _bare_lookups(file: Path) -> list[float]:
    """Seconds of finds of entries all over the file, as the daemon does them, thread and all."""
    connection = sqlite3.connect(file)
    step = max(1, connection.execute("SELECT max(id) FROM answers").fetchone()[0] // 3000)
    keys = [
        key for (key,) in connection.execute("SELECT key FROM answers WHERE id % ? = 0", (step,))
    ]
    connection.close()
    Random(2).shuffle(keys)
    scope = Scope("p", "m", "d")

    async def find() -> list[float]:
        database = Database.open(file, SCHEMA)
        seconds = []
        for key in keys:
            began = time.perf_counter()
            found = await database.read(partial(answers.find, key=key, scope=scope))
            seconds.append(time.perf_counter() - began)
            if found is None:
                raise EndpointError("an entry was not found")
        database.close()
        return seconds

    return asyncio.run(find())


# --- other words -------------------------------------------------------------------------------

_PAIRS = Path(__file__).with_name("paraphrases.jsonl")
_LEARNED_SECONDS = 5.0  # until all first questions are kept, with their vectors


def _words(folder: Path, given: argparse.Namespace) -> Words:
    if given.embedder is None:
        raise EndpointError("say which model compares questions, with --embedder")
    pairs = [json.loads(line) for line in _PAIRS.read_text().splitlines()]
    settings = [
        f"models.{NAME}.path=canary",
        f"models.{NAME}.cache.semantic=on",
        f"models.embedder.path={given.embedder}",
        "cache.embedder=embedder",
    ]
    daemon = plan_daemon(_sub(folder, "words"), None, settings)
    results: list[tuple[bool, bool, float]] = []
    with running(daemon.command, daemon.endpoint, daemon.log):
        asker = Asker(daemon.endpoint)
        for i, pair in enumerate(pairs):
            if asker.ask(_question(i, pair["a"]))[1] != "MISS":
                raise EndpointError("a first question was not computed")
        time.sleep(_LEARNED_SECONDS)
        for i, pair in enumerate(pairs):
            seconds, result, _ = asker.ask(_question(i, pair["b"]))
            results.append((pair["same"], result == "HIT", seconds))
        asker.close()
    hits = [seconds for _, is_hit, seconds in results if is_hit]
    if len(hits) < 2:
        raise EndpointError("hardly any question was answered from the cache")
    n_same = sum(same for same, _, _ in results)
    return Words(
        n_same,
        sum(same and is_hit for same, is_hit, _ in results),
        len(results) - n_same,
        sum(is_hit and not same for same, is_hit, _ in results),
        statistics.median(hits),
        statistics.quantiles(hits, n=100)[98],
    )


def _question(i: int, text: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": f"{i}"}, {"role": "user", "content": text}]
    return {"model": NAME, "messages": messages, "max_tokens": 4, "temperature": 0}


# --- what is printed ---------------------------------------------------------------------------

_MEASURES = {"hits": _hits, "misses": _misses, "size": _size, "words": _words}


def _sub(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _as_text(what: str, result: Any) -> str:
    if isinstance(result, Misses):
        return (
            f"a miss: p50 {result.with_cache_p50 * 1000:.2f} ms with the cache, "
            f"{result.without_p50 * 1000:.2f} ms without; added {result.added_p50 * 1000:+.2f} ms "
            "(target: at most 0.5)"
        )
    if isinstance(result, Words):
        return (
            f"other words: {result.n_hits} of {result.n_same} paraphrases hit (target: 40 %), "
            f"{result.n_false_hits} of {result.n_different} others (target: under 1 %); a hit p50 "
            f"{result.hit_p50_seconds * 1000:.1f} ms, p99 {result.hit_p99_seconds * 1000:.1f} ms "
            "at the client (target 15)"
        )
    if isinstance(result, Size):
        return (
            f"{result.n_entries} entries ({result.file_bytes / 1e6:.0f} MB): lookup p50 "
            f"{result.lookup_p50_seconds * 1000:.2f} ms, p99 {result.lookup_p99_seconds * 1000:.2f} ms "
            f"(target 2); memory {result.added_rss_bytes / 2**20:+.1f} MiB (target 64); "
            f"start {result.added_start_seconds:+.2f} s (target 0.3)"
        )
    lines = [f"{'hits':<10}{'connections':>12}{'per second':>12}{'p50 ms':>10}{'p99 ms':>10}"]
    for server in dict.fromkeys(turn.server for turn in result):
        for n in (1, 4, 64):
            of = [
                turn.hits
                for turn in result
                if (turn.server, turn.hits.n_connections) == (server, n)
            ]
            lines.append(
                f"{server:<10}{n:>12}{statistics.median(h.per_second for h in of):>12.0f}"
                f"{statistics.median(h.p50_seconds for h in of) * 1000:>10.2f}"
                f"{statistics.median(h.p99_seconds for h in of) * 1000:>10.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
