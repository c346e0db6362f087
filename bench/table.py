#!/usr/bin/env python3
"""One row of the table that hearthd is held to: against llama-server, or one load against another.

Every load has a fresh server, A and B in turn; the same file, threads and bytes of key-value memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import aiohttp
import psutil

from hearth_bench.contest import Contest, Rig
from hearth_bench.endpoint import EndpointError
from hearth_bench.rounds import as_text
from hearth_bench.rows import ROWS, judge


def main(argv: list[str] | None = None) -> int:
    """Run a row and judge it; 1 when a request failed or --check and a goal is missed, 2 without servers."""
    given = _parser().parse_args(argv)
    row = ROWS[given.row]
    work = replace(row.work, temperature=given.temperature)
    row = replace(row, work=work, n_rounds=given.rounds or row.n_rounds)
    files = {"random": given.model, "canary": given.canary}
    models = {kind: path for kind, path in files.items() if path is not None}
    if row.model not in models:
        flag = "--canary" if row.model == "canary" else "--model"
        print(f"table.py: this row needs {flag}", file=sys.stderr)
        return 2
    rig = Rig(models, given.llama_server, given.hearthd, given.threads, tuple(given.settings))
    contest = Contest(rig, row)
    try:
        comparison = asyncio.run(contest.run())
    except (EndpointError, aiohttp.ClientError, OSError) as error:
        print(f"table.py: {error}", file=sys.stderr)
        return 2
    verdicts = judge(row, comparison)
    if given.json:
        found = {"row": asdict(row), "commands": contest.commands, **comparison.as_json()}
        print(json.dumps(found, indent=2))
    else:
        print(row.title)
        for side, command in zip("AB", contest.commands, strict=False):
            print(f"{side}: {command}")
        print(as_text(comparison))
        print("\n".join(map(str, verdicts)))
    missed = given.check and not all(verdict.is_met for verdict in verdicts)
    return 1 if missed or comparison.n_failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--model", type=Path, help="a GGUF file, as models.py writes it")
    parser.add_argument(
        "--canary", type=Path, help="one of models.py --canary, for chats and copying"
    )
    parser.add_argument("--llama-server", default=os.environ.get("LLAMA_SERVER", "llama-server"))
    parser.add_argument("--hearthd", help="how to start hearthd (default: this Python)")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
