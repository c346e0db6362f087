#!/usr/bin/env python3
"""Interactive requests beside a batch that runs, and without one, in turn on one hearthd."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from hearth_bench.daemon import plan_daemon
from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.load import run_load
from hearth_bench.prompts import random_ids
from hearth_bench.report import Report, make_report
from hearth_bench.server import running
from hearth_bench.stats import Spread, ratios, spread
from hearth_bench.work import Work, add_work_options, work_from

_ENDPOINT = "/v1/completions"
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Lines:
    """What the batch asks for."""

    n: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure over all rounds, without a batch and beside one."""

    name: str
    without: Spread
    beside: Spread
    ratio: Spread  # beside / without, of each round


@dataclass(frozen=True, slots=True)
class Round:
    """The same load twice, and how many lines the batch did meanwhile, a second."""

    without: Report
    beside: Report
    lines_per_second: float


def main(argv: list[str] | None = None) -> int:
    """Measure and print; 1 where a request failed, 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", metavar="NAME=PATH", help="model (default: the built-in one)")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lines", type=int, default=20_000, help="of the batch")
    parser.add_argument("--line-prompt", type=int, default=64, help="tokens")
    parser.add_argument("--line-output", type=int, default=64, help="tokens")
    parser.add_argument("--json", action="store_true")
    add_work_options(parser)
    given = parser.parse_args(argv)
    work = work_from(given)
    work = replace(work, extra={"service_tier": "priority", **work.extra})
    lines = Lines(given.lines, given.line_prompt, given.line_output)
    try:
        rounds = measure(given.serve, given.settings, work, lines, given.rounds)
    except (EndpointError, aiohttp.ClientError, OSError) as error:
        print(f"batch.py: {error}", file=sys.stderr)
        return 2
    found = figures(rounds)
    if given.json:
        print(json.dumps([asdict(figure) for figure in found], indent=2))
    else:
        print(as_text(found, rounds))
    return 1 if any(r.without.n_failed + r.beside.n_failed for r in rounds) else 0


def measure(
    model: str | None, settings: list[str], work: Work, lines: Lines, n_rounds: int
) -> list[Round]:
    """Start a hearthd and do the rounds; raises EndpointError."""
    with tempfile.TemporaryDirectory(prefix="hearth-bench") as folder:
        daemon = plan_daemon(Path(folder), model, ["cache.enabled=false", *settings])
        with running(daemon.command, daemon.endpoint, daemon.log):
            return asyncio.run(_rounds(daemon.endpoint, work, lines, n_rounds))


async def _rounds(endpoint: Endpoint, work: Work, lines: Lines, n_rounds: int) -> list[Round]:
    rounds = []
    async with aiohttp.ClientSession() as session:
        model = work.model or await endpoint.first_model(session)
        for i in range(n_rounds):
            own = replace(work, model=model, seed=work.seed + 2 * i)
            without = make_report(await run_load(endpoint, own))
            async with batch_under_way(endpoint, session, model, lines, seed=i) as batch_id:
                before = await _n_done(endpoint, session, batch_id)
                loop = asyncio.get_running_loop()
                began = loop.time()
                beside = make_report(await run_load(endpoint, replace(own, seed=own.seed + 1)))
                n_lines = await _n_done(endpoint, session, batch_id) - before
                rounds.append(Round(without, beside, n_lines / (loop.time() - began)))
    return rounds


@asynccontextmanager
async def batch_under_way(
    endpoint: Endpoint, session: aiohttp.ClientSession, model: str, lines: Lines, *, seed: int
) -> AsyncIterator[str]:
    """A batch that has answered lines already and has more; cancelled on the way out."""
    form = aiohttp.FormData({"purpose": "batch"}, default_to_multipart=True)
    form.add_field("file", _file(model, lines, seed), filename="bench.jsonl")
    file_id = (await _asked(session.post(f"{endpoint.root}/v1/files", data=form)))["id"]
    order = {"input_file_id": file_id, "endpoint": _ENDPOINT, "completion_window": "24h"}
    batch_id = (await _asked(session.post(f"{endpoint.root}/v1/batches", json=order)))["id"]
    try:
        while await _n_done(endpoint, session, batch_id) == 0:  # noqa: ASYNC110 - a server tells no event
            await asyncio.sleep(_LOOK_SECONDS)
        yield batch_id
    finally:
        where = f"{endpoint.root}/v1/batches/{batch_id}"
        await _asked(session.post(f"{where}/cancel"))
        while (await _asked(session.get(where)))["status"] != "cancelled":  # noqa: ASYNC110 - as above
            await asyncio.sleep(_LOOK_SECONDS)


def _file(model: str, lines: Lines, seed: int) -> bytes:
    """Prompts that nobody has asked before."""
    rng = Random(f"batch {seed}")
    rows = []
    for i in range(lines.n):
        body = {
            "model": model,
            "prompt": random_ids(rng, lines.prompt_tokens, Work().id_range),
            "max_tokens": lines.output_tokens,
            "ignore_eos": True,
        }
        request = {"custom_id": str(i), "method": "POST", "url": _ENDPOINT, "body": body}
        rows.append(json.dumps(request))
    return "\n".join(rows).encode()


async def _n_done(endpoint: Endpoint, session: aiohttp.ClientSession, batch_id: str) -> int:
    batch = await _asked(session.get(f"{endpoint.root}/v1/batches/{batch_id}"))
    if batch["status"] not in ("validating", "in_progress"):
        raise EndpointError(f"the batch is {batch['status']} already: give it more --lines")
    counts = batch["request_counts"]
    if counts["failed"]:
        raise EndpointError(f"{counts['failed']} lines of the batch failed")
    return int(counts["completed"])


async def _asked(request: Any) -> dict[str, Any]:
    async with request as answer:
        if answer.status >= 400:
            raise EndpointError(f"{answer.status}: {await answer.text()}")
        found: dict[str, Any] = await answer.json()
        return found


def figures(rounds: list[Round]) -> list[Figure]:
    """What the rounds gave. Pure."""
    found = []
    for name in ("ttft_seconds", "tpot_seconds"):
        for share in ("p50", "p95"):
            without = [getattr(getattr(r.without, name), share) for r in rounds]
            beside = [getattr(getattr(r.beside, name), share) for r in rounds]
            a, b, ratio = spread(without), spread(beside), spread(ratios(beside, without))
            if a and b and ratio:
                found.append(Figure(f"{name.removesuffix('_seconds')} {share}", a, b, ratio))
    return found


def as_text(found: list[Figure], rounds: list[Round]) -> str:
    """A table for people, in milliseconds."""
    lines = [
        f"{'median of ' + str(len(rounds)):<16}{'without':>10}{'beside':>10}   beside / without"
    ]
    for figure in found:
        without, beside = figure.without.median * 1000, figure.beside.median * 1000
        lines.append(f"{figure.name + ' ms':<16}{without:>10.2f}{beside:>10.2f}   {figure.ratio}")
    speeds = ", ".join(f"{r.lines_per_second:.1f}" for r in rounds)
    lines.append(f"the batch did {speeds} lines a second meanwhile")
    for r in rounds:
        for report in (r.without, r.beside):
            lines += [f"error: {kind}: {n}" for kind, n in sorted(report.errors.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
