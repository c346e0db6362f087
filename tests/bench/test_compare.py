"""Two servers in turn: processes come and go, prompts are the same for both, ratios are right."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

import pytest

import compare
from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.report import Report
from hearth_bench.rounds import compare as compare_reports
from hearth_bench.rounds import run_rounds
from hearth_bench.server import running
from hearth_bench.stats import Summary
from hearth_bench.work import Work

SERVER = """
import asyncio, os, sys
sys.path.insert(0, {folder!r})
from fake_openai import FakeOpenAI
from aiohttp import web
open({pids!r}, "a").write(f"{{os.getpid()}}\\n")
web.run_app(FakeOpenAI({options}).app(), host="127.0.0.1", port={port}, print=None)
"""


def report(tokens_per_second: float, ttft: float | None) -> Report:
    summary = None if ttft is None else Summary(1, ttft, ttft, ttft, ttft, ttft)
    return Report(
        endpoint="here", model="m", n_ok=1, n_failed=0, errors={}, wall_seconds=1.0,
        prompt_tokens=None, cached_tokens=None, output_tokens=1, ttft_seconds=summary,
        gap_seconds=None, tpot_seconds=None, e2e_seconds=None,
        output_tokens_per_second=tokens_per_second, total_tokens_per_second=None,
        requests_per_second=1.0, client_cores=0.1,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_command(folder: Path, name: str, port: int, options: str = "") -> str:
    script = folder / f"{name}.py"
    pids = str(folder / f"{name}.pids")
    here = str(Path(__file__).parent)
    script.write_text(SERVER.format(folder=here, pids=pids, port=port, options=options))
    return f"{sys.executable} {script}"


def test_ratios_are_of_each_round() -> None:
    found = compare_reports(
        [(report(10, 0.2), report(20, 0.1)), (report(30, None), report(10, 0.1))]
    )

    by_name = {figure.name: figure for figure in found.figures}
    output, ttft = by_name["output tok/s"], by_name["TTFT p50"]
    assert output.ratio is not None
    assert (output.ratio.low, output.ratio.median, output.ratio.high) == (0.5, 1.75, 3.0)
    assert output.higher_is_better
    assert ttft.ratio is not None
    assert ttft.ratio.median == 2.0
    assert not ttft.higher_is_better
    assert by_name["gap p50"].ratio is None


async def test_rounds_go_in_turn_with_the_same_work_for_both() -> None:
    seen: list[tuple[str, int]] = []

    async def a(work: Work) -> Report:
        seen.append(("a", work.seed))
        return report(1, 1)

    async def b(work: Work) -> Report:
        seen.append(("b", work.seed))
        return report(1, 1)

    await run_rounds(a, b, Work(seed=7), 2)

    assert seen == [("a", 7), ("b", 7), ("a", 8), ("b", 8)]


@pytest.mark.parametrize("restart", [False, True])
def test_the_script_starts_measures_and_ends_both(
    restart: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = {"a": free_port(), "b": free_port()}
    options = {"a": "first_token_seconds=0.1", "b": "first_token_seconds=0.02"}
    argv = ["--rounds", "2", "--json"] + ["--restart"] * restart
    for side, port in ports.items():
        argv += [f"--{side}-url", f"http://127.0.0.1:{port}"]
        argv += [f"--{side}-cmd", server_command(tmp_path, side, port, options[side])]
    argv += ["--", "--concurrency", "2", "--requests", "4", "--output-tokens", "3"]

    status = compare.main(argv)

    found = json.loads(capsys.readouterr().out)
    ttft = next(figure for figure in found["figures"] if figure["name"] == "TTFT p50")
    assert status == 0
    assert 2 < ttft["ratio"]["median"] < 8
    assert len(found["rounds"]) == 2
    for side in ports:
        pids = [int(line) for line in (tmp_path / f"{side}.pids").read_text().split()]
        assert len(pids) == (2 if restart else 1)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_server_that_exits_is_told_with_its_words(tmp_path: Path) -> None:
    endpoint = Endpoint(f"http://127.0.0.1:{free_port()}")
    command = f"{sys.executable} -c \"print('no such model'); exit(3)\""

    with (
        pytest.raises(EndpointError, match=r"status 3:\n+no such model"),
        running(command, endpoint, tmp_path / "log"),
    ):
        pass


def test_a_strangers_address_is_refused(tmp_path: Path) -> None:
    port = free_port()
    endpoint = Endpoint(f"http://127.0.0.1:{port}")
    with running(server_command(tmp_path, "one", port), endpoint, tmp_path / "log") as server:
        assert Path(f"/proc/{server.pid}").exists()
        with (
            pytest.raises(EndpointError, match="already answers"),
            running("true", endpoint, tmp_path / "other"),
        ):
            pass
    assert not Path(f"/proc/{server.pid}").exists()
    assert os.getpid() != server.pid
