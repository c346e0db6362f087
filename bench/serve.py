#!/usr/bin/env python3
"""Load generator for any server of OpenAI's API: latencies, throughput and errors of one work."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import aiohttp

from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.load import run_load
from hearth_bench.report import as_text, make_report
from hearth_bench.work import add_work_options, work_from


def main(argv: list[str] | None = None) -> int:
    """Run one load and print what it measured; 1 when a request failed, 2 when none could run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:4327", help="with or without /v1")
    parser.add_argument("--socket", help="a Unix socket to connect to")
    parser.add_argument("--api-key")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--records", type=Path, help="write one JSON line for each request here")
    add_work_options(parser)
    given = parser.parse_args(argv)
    endpoint = Endpoint(given.url, given.socket, given.api_key)
    try:
        result = asyncio.run(run_load(endpoint, work_from(given)))
    except (EndpointError, aiohttp.ClientError, OSError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 2
    if given.records:
        with given.records.open("w") as file:
            for record in result.records:
                file.write(json.dumps(record.as_json()) + "\n")
    report = make_report(result)
    print(json.dumps(report.as_json(), indent=2) if given.json else as_text(report))
    return 1 if report.n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
