"""What wrk reports is read right, and an answer that is an error is no hit."""

from __future__ import annotations

import pytest

from hearth_bench.endpoint import EndpointError
from hearth_bench.hitting import parse_wrk

REPORT = """\
Running 3s test @ http://127.0.0.1:1/v1/chat/completions
  1 threads and 4 connections
  Latency Distribution
     50%  850.00us
     75%    1.10ms
     90%    2.00ms
     99%    1.20s
  4561 requests in 3.00s, 2.1MB read
{extra}Requests/sec:   1520.25
Transfer/sec:    700.00KB
"""


def test_the_figures() -> None:
    hits = parse_wrk(REPORT.format(extra=""), 4)
    assert (hits.n_connections, hits.per_second) == (4, 1520.25)
    assert hits.p50_seconds == pytest.approx(0.00085)
    assert hits.p99_seconds == pytest.approx(1.2)


@pytest.mark.parametrize(
    "extra", ["  Non-2xx or 3xx responses: 7\n", "  Socket errors: connect 0, read 3\n"]
)
def test_errors_are_no_hits(extra: str) -> None:
    with pytest.raises(EndpointError):
        parse_wrk(REPORT.format(extra=extra), 4)


def test_what_cannot_be_read() -> None:
    with pytest.raises(EndpointError):
        parse_wrk("nothing", 1)
