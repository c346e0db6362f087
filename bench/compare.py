#!/usr/bin/env python3
"""Two servers under the same load, in turn A B A B, and the ratios A / B of what they reach."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp

from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.load import run_load
from hearth_bench.report import Report, make_report
from hearth_bench.rounds import Comparison, Measure, as_text, run_rounds
from hearth_bench.server import running
from hearth_bench.work import Work, add_work_options, work_from


def main(argv: list[str] | None = None) -> int:
    """Run the rounds and print the ratios; 1 when a request failed, 2 when a server did not come up."""
    arguments = sys.argv[1:] if argv is None else argv
    own, _, load = _split(arguments)
    given = _parser().parse_args(own)
    load_parser = argparse.ArgumentParser(prog="compare.py … --")
    add_work_options(load_parser)
    work = work_from(load_parser.parse_args(load))
    try:
        comparison = _compare(given, work)
    except (EndpointError, aiohttp.ClientError, OSError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(comparison.as_json(), indent=2) if given.json else as_text(comparison))
    return 1 if comparison.n_failed else 0


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """What stands before and after the first `--`."""
    if "--" not in arguments:
        return arguments, "", []
    at = arguments.index("--")
    return arguments[:at], "--", arguments[at + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="After -- come the options of the load, as serve.py takes them."
    )
    for side in "ab":
        add = parser.add_argument_group(side.upper()).add_argument
        add(f"--{side}-url", default="http://localhost")
        add(f"--{side}-socket")
        add(f"--{side}-cmd", help="start this and end it afterwards; without, the server is there")
        add(f"--{side}-ready", metavar="PATH", help="default: /readyz, /health or /v1/models")
        add(f"--{side}-model", help="default: the first it lists")
        add(f"--{side}-extra", type=json.loads, default={}, metavar="JSON", help="request fields")
        add(f"--{side}-api-key")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--restart", action="store_true", help="fresh processes for every load")
    parser.add_argument("--ready-seconds", type=float, default=300.0)
    parser.add_argument("--logs", type=Path, help="keep the servers' output in this folder")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _compare(given: argparse.Namespace, work: Work) -> Comparison:
    with ExitStack() as stack:
        logs = given.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs.mkdir(parents=True, exist_ok=True)
        sides = [_Side(given, side, logs) for side in "ab"]
        if not given.restart:
            for side in sides:
                stack.enter_context(side.up())
        measures: list[Measure] = [
            side.measure_afresh if given.restart else side.measure for side in sides
        ]
        return asyncio.run(run_rounds(measures[0], measures[1], work, given.rounds))


class _Side:
    """A or B: where it is, how it starts, what its requests say besides."""

    def __init__(self, given: argparse.Namespace, side: str, logs: Path) -> None:
        options = {
            name.removeprefix(f"{side}_"): value
            for name, value in vars(given).items()
            if name.startswith(f"{side}_")
        }
        self._endpoint = Endpoint(options["url"], options["socket"], options["api_key"])
        self._command: str | None = options["cmd"]
        self._ready: str | None = options["ready"]
        self._model: str | None = options["model"]
        self._extra: dict[str, object] = options["extra"]
        self._log = logs / f"{side}.log"
        self._ready_seconds: float = given.ready_seconds

    def up(self) -> ExitStack:
        """Its process, where it has a command, until the stack is closed."""
        stack = ExitStack()
        if self._command:
            server = running(
                self._command,
                self._endpoint,
                self._log,
                ready_path=self._ready,
                ready_seconds=self._ready_seconds,
            )
            stack.enter_context(server)
        return stack

    async def measure(self, work: Work) -> Report:
        """One load on the server that is there."""
        own = replace(work, model=self._model or work.model, extra=work.extra | self._extra)
        return make_report(await run_load(self._endpoint, own))

    async def measure_afresh(self, work: Work) -> Report:
        """One load on a server of its own."""
        with await asyncio.to_thread(self.up):
            return await self.measure(work)


if __name__ == "__main__":
    sys.exit(main())
