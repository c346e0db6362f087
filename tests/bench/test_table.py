"""The table against llama-server: its servers are of one size, its loads measure what they say, its goals judge."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from fake_openai import FakeOpenAI

import table
from hearth_bench.client import Record
from hearth_bench.contest import Contest, Rig
from hearth_bench.endpoint import Endpoint, EndpointError
from hearth_bench.intrusion import between, run_intrusion
from hearth_bench.load import copied, run_load
from hearth_bench.report import make_report
from hearth_bench.rounds import compare
from hearth_bench.rows import ROWS, Goal, Row, judge
from hearth_bench.work import Work

RIG = Rig({"random": Path("/m.gguf"), "canary": Path("/c.gguf")}, "llama-server", "hearthd")


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_both_servers_have_the_same_file_threads_and_memory(row: Row, tmp_path: Path) -> None:
    hearthd = RIG.daemon(row, tmp_path, {}).command
    llama = RIG.rival(row, tmp_path).command
    n, memory = row.n_clients, row.n_clients * row.context

    assert f"--model bench={RIG.models[row.model]} " in hearthd
    assert f" -m {RIG.models[row.model]} " in llama
    assert f"concurrency={n} " in hearthd
    assert f"kv_tokens={memory} " in hearthd
    assert "threads=2" in hearthd
    assert llama.endswith(f"-t 2 -np {n} -c {memory}")


def test_work_fits_its_context() -> None:
    for row in ROWS.values():
        work = row.work
        longest = work.turns * (work.prompt_tokens + work.output_tokens + 16)
        assert longest <= row.context, row.title
        assert row.intruder_tokens < row.context


def test_keys_get_the_hash_of_their_name() -> None:
    command = RIG.daemon(ROWS["shares"], Path("/x"), {"three": {"weight": 3}}).command

    assert "--set keys.three.weight=3" in command
    assert "--set keys.three.hash=" in command


@pytest.mark.parametrize(
    ("goal", "ratio", "met"),
    [
        (Goal("x", low=1.0), 1.0, True),
        (Goal("x", low=1.0), 0.99, False),
        (Goal("x", high=0.5), 0.5, True),
        (Goal("x", high=0.5), 0.51, False),
        (Goal("x", low=2.7, high=3.3), 3.4, False),
        (Goal("x", low=2.7, high=3.3), 3.0, True),
    ],
)
def test_goals(goal: Goal, ratio: float, met: bool) -> None:
    assert goal.is_met(ratio) is met


async def test_a_figure_that_was_not_seen_is_missed() -> None:
    fake = FakeOpenAI()
    async with fake.running() as url:
        report = make_report(await run_load(Endpoint(url), Work(n_requests=1, output_tokens=3)))
    row = replace(ROWS["one"], goals=(Goal("output tok/s", low=0.98), Goal("nothing", low=0.0)))

    verdicts = judge(row, compare([(report, report)]))

    assert [verdict.is_met for verdict in verdicts] == [True, False]


def test_gaps_are_those_that_touch_the_window() -> None:
    record = Record(0.0, [1.0, 2.0, 3.0, 5.0, 9.0, 10.0])

    assert between(record, 2.5, 6.0).gaps_seconds() == [1.0, 2.0, 4.0]
    assert between(record, 2.5, 2.7).gaps_seconds() == [1.0]


async def test_an_intrusion_sees_the_long_prompts_time_and_the_streams_gaps() -> None:
    fake = FakeOpenAI(first_token_seconds=0.2, token_seconds=0.005)
    work = Work(concurrency=3, prompt_tokens=20, output_tokens=400)

    async with fake.running() as url:
        report = await run_intrusion(Endpoint(url), work, 500)

    assert sorted(len(request["prompt"]) for request in fake.requests) == [20, 20, 20, 500]
    assert fake.requests[-1]["max_tokens"] == 1
    assert report.ttft_seconds is not None
    assert report.ttft_seconds.n == 1
    assert 0.2 <= report.ttft_seconds.p50 < 1.0
    assert report.gap_seconds is not None
    assert 3 * 5 < report.gap_seconds.n <= 3 * (report.wall_seconds / 0.005 + 2)
    assert report.n_failed == 0


async def test_streams_that_end_before_the_long_prompt_are_told() -> None:
    async with FakeOpenAI().running() as url:
        with pytest.raises(EndpointError, match="give it more tokens"):
            await run_intrusion(Endpoint(url), Work(concurrency=2, output_tokens=10), 50)


@pytest.mark.parametrize(
    ("given", "answer", "share"),
    [("one two", "one two", 1.0), ("one two", "one six", 4 / 7), ("one", " one more", 1.0)],
)
def test_what_is_repeated_is_counted_to_the_first_difference(
    given: str, answer: str, share: float
) -> None:
    assert copied(given, answer) == pytest.approx(share)


async def test_an_order_stands_before_each_prompt_within_its_length() -> None:
    fake = FakeOpenAI()
    work = Work(
        n_requests=3,
        prompt_tokens=40,
        output_tokens=3,
        chat=True,
        tokenizer="auto",
        order="Repeat:",
    )

    async with fake.running() as url:
        report = make_report(await run_load(Endpoint(url), work))

    said = [request["messages"][0]["content"] for request in fake.requests]
    assert all(text.startswith("Repeat: ") for text in said)
    assert report.prompt_tokens == 3 * 40
    assert report.copied is not None
    assert report.copied < 0.1


async def test_a_pause_lies_between_an_answer_and_the_next_request() -> None:
    work = Work(n_requests=3, output_tokens=1, n_warmup=0, pause_seconds=0.1)

    async with FakeOpenAI().running() as url:
        records = (await run_load(Endpoint(url), work)).records

    waits = [b.sent_seconds - a.ended_seconds for a, b in pairwise(records)]
    assert len(waits) == 2
    assert min(waits) >= 0.1


@pytest.mark.parametrize("kind", ["interactive", "shares"])
async def test_rows_of_hearthd_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearth_bench.contest._FILL_SECONDS", 2.0)
    canary = Path(table.__file__).parent.parent / "backends/hearth_backends/canary/canary.gguf"
    rig = Rig({"random": canary}, "llama-server", threads=1)
    row = replace(ROWS[kind], context=512, n_clients=2, n_rounds=1)
    work = replace(row.work, prompt_tokens=16, output_tokens=16)
    if kind == "shares":
        work = replace(work, seconds=2.0, concurrency=4)
    else:
        work = replace(work, n_requests=4)

    found = await Contest(rig, replace(row, work=work)).run()

    (a, b), *others = found.reports
    assert not others
    assert a.n_failed == b.n_failed == 0
    assert a.n_ok >= 4
    assert b.n_ok >= 2


def test_a_row_without_its_model_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(["copying", "--model", "m.gguf"]) == 2
    assert "--canary" in capsys.readouterr().err
