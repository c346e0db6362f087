"""The engine process over its socket: loading, requests, signs of life, and every way it ends."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import msgspec
import pytest
from engine_process import EngineProcess
from sim_oracle import expected

from hearthd import wire

GREEDY = wire.Sampling(temperature=0.0)
ECHO = "sim:says=echo,layers=2"


@pytest.fixture
def engine() -> Iterator[EngineProcess]:
    with EngineProcess() as process:
        yield process


def text_of(deltas: list[wire.Delta]) -> str:
    return "".join(delta.text for delta in deltas)


# --- loading -------------------------------------------------------------------------------------


def test_load_tells_progress_and_what_is_loaded(engine: EngineProcess) -> None:
    ready = engine.load("sim:layers=2,load_seconds=0.2", kv_tokens=1024)
    fractions = [f.fraction for f in engine.seen if isinstance(f, wire.Loading)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert ready.load_seconds >= 0.2
    info = ready.info
    assert (info.backend, info.context, info.concurrency, info.kv_tokens) == ("sim", 512, 4, 1024)
    assert info.stages == [wire.StageConfig("sim", "cpu:0", (0, 2))]
    assert info.has_chat_template
    assert (info.rss_bytes or 0) > 1_000_000


def test_stages_of_a_forced_plan(engine: EngineProcess) -> None:
    stages = [wire.StageConfig("sim", "cpu:0", (0, 1)), wire.StageConfig("sim", "cpu:1", (1, 2))]
    engine.send(wire.Load(name="m", path=ECHO, context=512, stages=stages))
    for device in ("cpu:0", "cpu:1"):
        request = engine.wait_for(wire.LeaseRequest)
        assert request.device == device
        assert request.weights_bytes > 0
        assert request.kv_bytes > 0
        engine.send(wire.LeaseGrant(1))
    assert engine.wait_for(wire.Ready).info.stages == stages
    engine.send(wire.Submit(rid=1, sampling=GREEDY, text="two stages\n", max_tokens=20))
    assert text_of(engine.deltas_until_finish(1)) == "two stages"


@pytest.mark.parametrize(
    ("load", "code", "words"),
    [
        (wire.Load("m", "sim:layer=2"), "model_file_error", "did you mean 'layers'"),
        (wire.Load("m", "/nowhere.gguf"), "model_file_error", "nowhere.gguf"),
        (wire.Load("m", "sim:context=512", context=1024), "unsupported", "trained for 512"),
        (wire.Load("m", "sim:", backend="nobody"), "unsupported", "no backend is called"),
        (wire.Load("m", "sim:", device="cpu:9"), "unsupported", "cpu:9"),
    ],
)
def test_a_load_that_cannot_be_planned_fails_in_words(
    engine: EngineProcess, load: wire.Load, code: str, words: str
) -> None:
    engine.send(load)
    failed = engine.wait_for(wire.Failed)
    assert failed.code == code
    assert words in failed.message
    assert engine.exit_status() == 1


def test_a_load_that_fails_half_way_fails_in_words(engine: EngineProcess) -> None:
    engine.send(wire.Load("m", "sim:fail_load=the disk is gone", context=512))
    engine.wait_for(wire.LeaseRequest)
    engine.send(wire.LeaseGrant(1))
    failed = engine.wait_for(wire.Failed)
    assert failed.code == "model_file_error"
    assert "the disk is gone" in failed.message
    assert engine.exit_status() == 1


def test_a_refused_lease_ends_the_load(engine: EngineProcess) -> None:
    engine.send(wire.Load("m", "sim:", context=512))
    engine.wait_for(wire.LeaseRequest)
    engine.send(wire.LeaseRefusal("7 GB are free, 9 GB were asked for"))
    failed = engine.wait_for(wire.Failed)
    assert (failed.code, failed.message) == (
        "insufficient_memory",
        "7 GB are free, 9 GB were asked for",
    )
    assert engine.exit_status() == 1


# --- serving -------------------------------------------------------------------------------------


def test_requests_side_by_side(engine: EngineProcess) -> None:
    engine.load("sim:layers=2")
    prompts = {rid: b"prompt of %d" % rid for rid in range(1, 7)}
    for rid, prompt in prompts.items():
        engine.send(wire.Submit(rid, GREEDY, tokens=list(prompt), max_tokens=20, ignore_eos=True))
    tokens: dict[int, list[int]] = {rid: [] for rid in prompts}
    finished = 0
    while finished < len(prompts):
        for delta in engine.wait_for(wire.Step).deltas:
            tokens[delta.rid] += delta.tokens
            finished += delta.finish == "length"
    assert tokens == {
        rid: expected("sim:layers=2", prompt, max_tokens=20, ignore_eos=True)
        for rid, prompt in prompts.items()
    }


def test_timing_and_usage_of_the_first_delta(engine: EngineProcess) -> None:
    engine.load(ECHO)
    before = time.monotonic()
    engine.send(wire.Submit(1, GREEDY, text="hello\n", max_tokens=20, arrived_seconds=before))
    first, *_, last = engine.deltas_until_finish(1)
    assert before <= (first.started_seconds or 0) <= time.monotonic()
    assert first.usage == wire.Usage(n_prompt=6, n_output=1, n_cached=0)
    assert last.started_seconds is None
    assert last.usage == wire.Usage(n_prompt=6, n_output=6, n_cached=0)


def test_cancel_frees_the_slot(engine: EngineProcess) -> None:
    engine.load("sim:layers=2,latency_ms=50", concurrency=1)  # 20 s, unless it is cancelled
    engine.send(wire.Submit(1, GREEDY, text="long", max_tokens=400, ignore_eos=True))
    engine.wait_for(wire.Step)
    engine.send(wire.Cancel(1))
    engine.send(wire.Submit(2, GREEDY, text="next", max_tokens=3, ignore_eos=True))
    started = time.monotonic()
    engine.deltas_until_finish(2)
    assert time.monotonic() - started < 10


def test_encode_and_decode_while_a_step_runs(engine: EngineProcess) -> None:
    engine.load("sim:layers=2,latency_ms=8000")
    engine.send(wire.Submit(1, GREEDY, text="slow", max_tokens=5, ignore_eos=True))
    time.sleep(0.3)
    started = time.monotonic()
    engine.send(wire.Encode(2, text="hé<|im_end|>"))
    encoded = engine.wait_for(wire.Encoded)
    engine.send(wire.Decode(3, tokens=encoded.tokens))
    decoded = engine.wait_for(wire.Decoded)
    assert time.monotonic() - started < 7  # the step goes on
    assert encoded.tokens == [*"hé".encode(), 257]
    assert encoded.pieces[-1] == b"<|im_end|>"
    assert decoded.text == "hé<|im_end|>"


def test_what_cannot_be_done_is_rejected_in_words(engine: EngineProcess) -> None:
    engine.load("sim:layers=2,vocab=300")
    engine.send(wire.Submit(1, GREEDY, text="x" * 510, max_tokens=3))
    engine.send(wire.Submit(2, GREEDY, tokens=[1, 300]))
    engine.send(wire.Submit(3, GREEDY, tokens=[]))
    engine.send(wire.Decode(4, tokens=[-1]))
    rejects = [engine.wait_for(wire.Reject) for _ in range(4)]
    assert [(r.rid, r.status, r.code) for r in rejects] == [
        (1, 400, "context_length_exceeded"),
        (2, 400, "invalid_value"),
        (3, 400, "invalid_value"),
        (4, 400, "invalid_value"),
    ]
    assert "512" in rejects[0].message
    assert "513" in rejects[0].message
    assert "prompt[1]" in rejects[1].message


@pytest.mark.slow
def test_beats_come_while_a_step_hangs(engine: EngineProcess) -> None:
    engine.load("sim:layers=2,hang_after=2")
    engine.send(wire.Submit(1, GREEDY, text="x", max_tokens=50, ignore_eos=True))
    beat = engine.wait_for(wire.Beat, lambda beat: (beat.step_age_seconds or 0) > 1.5)
    assert beat.n_steps == 2
    assert beat.n_running == 1


# --- ends ----------------------------------------------------------------------------------------


def test_stop_lets_what_runs_finish(engine: EngineProcess) -> None:
    engine.load("sim:layers=2,latency_ms=5")
    engine.send(wire.Submit(1, GREEDY, text="x", max_tokens=20, ignore_eos=True))
    engine.wait_for(wire.Step)
    engine.send(wire.Stop(deadline_seconds=10.0))
    engine.send(wire.Submit(2, GREEDY, text="too late", max_tokens=5))
    assert engine.wait_for(wire.Reject).code == "shutting_down"
    assert engine.deltas_until_finish(1)[-1].finish == "length"
    assert engine.exit_status() == 0


def test_stop_ends_at_the_deadline(engine: EngineProcess) -> None:
    engine.load("sim:layers=2,latency_ms=50")  # 20 s, unless it is stopped
    engine.send(wire.Submit(1, GREEDY, text="x", max_tokens=400, ignore_eos=True))
    engine.wait_for(wire.Step)
    started = time.monotonic()
    engine.send(wire.Stop(deadline_seconds=0.3))
    assert engine.exit_status() == 0
    assert 0.2 < time.monotonic() - started < 10


def test_whoever_is_cut_off_at_the_deadline_hears_of_it(engine: EngineProcess) -> None:
    engine.load("sim:layers=2,latency_ms=20", concurrency=1)
    constraint = wire.JsonConstraint({"type": "object"})
    for rid, held_to in ((1, None), (2, None), (3, constraint)):
        submit = wire.Submit(rid, GREEDY, text="x", max_tokens=400, ignore_eos=True)
        engine.send(msgspec.structs.replace(submit, constraint=held_to))
    first = engine.wait_for(wire.Step)
    engine.send(wire.Stop(deadline_seconds=0.3))
    frames = [first, *engine.rest()]
    deltas = [d for frame in frames if isinstance(frame, wire.Step) for d in frame.deltas]
    ends = [(d.rid, d.finish, d.error and d.error[0]) for d in deltas if d.finish]
    ends += [(f.rid, "error", f.code) for f in frames if isinstance(f, wire.Reject)]
    assert sorted(ends) == [(rid, "error", "shutting_down") for rid in (1, 2, 3)]
    assert engine.exit_status() == 0


def test_stop_while_idle(engine: EngineProcess) -> None:
    engine.load("sim:layers=2")
    engine.send(wire.Stop())
    assert engine.exit_status() == 0


@pytest.mark.parametrize("busy", [False, True])
def test_an_engine_without_hearthd_exits(engine: EngineProcess, busy: bool) -> None:
    engine.load("sim:layers=2,latency_ms=10")
    if busy:
        engine.send(wire.Submit(1, GREEDY, text="x", max_tokens=400, ignore_eos=True))
        engine.wait_for(wire.Step)
    engine.socket.close()
    assert engine.exit_status() == 0


def test_hearthd_gone_before_the_load(engine: EngineProcess) -> None:
    engine.socket.close()
    assert engine.exit_status() == 0


def test_signals_for_hearthd_do_not_end_an_engine(engine: EngineProcess) -> None:
    engine.load(ECHO)
    engine.process.send_signal(signal.SIGINT)
    engine.process.send_signal(signal.SIGTERM)
    engine.send(wire.Submit(1, GREEDY, text="still here\n", max_tokens=20))
    assert text_of(engine.deltas_until_finish(1)) == "still here"


def test_a_killed_engine_closes_its_end(engine: EngineProcess) -> None:
    engine.load("sim:layers=2,die_after=3")
    engine.send(wire.Submit(1, GREEDY, text="x", max_tokens=50, ignore_eos=True))
    steps = [frame for frame in engine.rest() if isinstance(frame, wire.Step)]
    assert len(steps) == 3
    assert engine.exit_status() == -signal.SIGKILL


# --- idle time -----------------------------------------------------------------------------------

LEISURELY = """
import sys
from hearth_backends.errors import CapacityError
from hearth_backends.sim.stage import SimStage
from hearthd.engine.__main__ import main

times = []

def idle(self):
    times.append(len(times) + 1)
    print("at leisure", times[-1], file=sys.stderr, flush=True)
    if times[-1] == 2:
        raise CapacityError("there is no room")
    return times[-1] < 2

SimStage.idle = idle
sys.exit(main())
"""
"""An engine whose stage has two things to do at leisure, of which the second fails."""


def test_a_stage_gets_leisure_after_work_and_may_fail_at_it() -> None:
    with EngineProcess(["-c", LEISURELY]) as engine:
        engine.load(ECHO)
        for rid, times in ((1, ["1", "2"]), (2, ["3"])):
            engine.send(wire.Submit(rid=rid, sampling=GREEDY, text="work\n", max_tokens=20))
            assert text_of(engine.deltas_until_finish(rid)) == "work"
            assert engine.process.stderr is not None
            told = (line.split() for line in engine.process.stderr)
            assert [
                next(words[-1] for words in told if "leisure" in words and words[0] == "at")
                for _ in times
            ] == times
        engine.send(wire.Stop())
        assert engine.process.wait(10) == 0
