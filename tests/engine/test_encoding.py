"""Encoding engines: what a model is loaded for, which texts go together, and what comes of failures."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from engine_process import EngineProcess

from hearth_backends import registry
from hearth_backends.encoder import EncoderSpec
from hearth_backends.errors import Unsupported
from hearth_backends.sim.encoder import SimEncoder
from hearth_backends.sim.options import parse_options
from hearth_backends.weights.encoding import EncodingSpec
from hearthd import wire
from hearthd.engine.encoding.core import EncodingCore
from hearthd.engine.encoding.intake import EncodingIntake, _fill, marks_around
from hearthd.engine.encoding.job import Job, Text
from hearthd.engine.encoding.loader import context_that_fits, plan_encoder
from hearthd.engine.encoding.queue import EncodingQueue
from hearthd.engine.encoding.task import Encoding, choose_encoding
from hearthd.engine.probe import probe
from hearthd.engine.refused import Refused
from hearthd.engine.request import Priority

EMBEDS = registry.open_model("sim:task=embed")
RANKS = registry.open_model("sim:task=rerank,bos=1")


# --- what a model is loaded for ------------------------------------------------------------------


def _facts(**fields: Any) -> Any:
    return replace(EMBEDS.spec, encoding=EncodingSpec(**fields))


def test_a_file_says_what_its_model_is_for() -> None:
    assert choose_encoding(_facts()) is None
    assert choose_encoding(_facts(pooling="none")) is None
    assert choose_encoding(_facts(pooling="last")) == Encoding("embed", "last")
    assert choose_encoding(_facts(pooling="cls", generates=False)) == Encoding("embed", "cls")
    assert choose_encoding(_facts(pooling="rank", ranks=True)) == Encoding("rerank", "rank")


def test_the_configuration_may_say_it_instead() -> None:
    assert choose_encoding(_facts(), "embed") == Encoding("embed", "last")
    assert choose_encoding(_facts(), None, "mean") == Encoding("embed", "mean")
    assert choose_encoding(_facts(pooling="last"), "generate") is None
    assert choose_encoding(_facts(pooling="mean", generates=False), None, "cls") == Encoding(
        "embed", "cls"
    )
    assert choose_encoding(_facts(ranks=True), "rerank") == Encoding("rerank", "rank")


@pytest.mark.parametrize(
    ("fields", "task", "pooling", "words"),
    [
        ({"generates": False, "pooling": "mean"}, "generate", None, "continues no text"),
        ({"generates": False}, None, None, "set pooling"),
        ({"generates": False, "pooling": "none"}, None, None, "set pooling"),
        ({}, "rerank", None, "no reranker"),
        ({"pooling": "rank", "ranks": True}, "embed", None, "is a reranker"),
        ({"pooling": "rank", "ranks": True}, "rerank", "mean", "head of its own"),
        ({}, "generate", "mean", 'task = "embed"'),
    ],
)
def test_what_a_model_cannot_do(
    fields: dict[str, Any], task: Any, pooling: Any, words: str
) -> None:
    with pytest.raises(Unsupported, match=words):
        choose_encoding(_facts(**fields), task, pooling)


# --- the queue -----------------------------------------------------------------------------------


def _queue(**fields: Any) -> EncodingQueue:
    sizes = {"batch_tokens": 100, "batch_texts": 8, "aging_seconds": 30.0, **fields}
    return EncodingQueue(**sizes)


def _job(rid: int, *lengths: int, level: int = 0, key: str = "", weight: float = 1.0) -> Job:
    texts = [Text([1] * n) for n in lengths]
    return Job(rid, texts, sum(lengths), priority=Priority(level, key, weight, None, rid))


def _ids(queue: EncodingQueue, now: float = 0.0) -> list[tuple[int, int]]:
    return [(item.job.id, item.index) for item in queue.take(now)]


def test_a_batch_holds_as_many_texts_as_fit_the_shortest_first() -> None:
    queue = _queue()
    queue.add(_job(1, 50, 20, 40, 30), 0.0)
    assert _ids(queue) == [(1, 1), (1, 3), (1, 2)]
    assert _ids(queue) == [(1, 0)]
    assert _ids(queue) == []
    assert not queue.has_work


def test_a_text_longer_than_a_batch_goes_alone_and_texts_are_bounded() -> None:
    queue = _queue(batch_texts=3)
    queue.add(_job(1, 500, 1, 1, 1, 1), 0.0)
    assert [len(queue.take(0.0)) for _ in range(3)] == [3, 1, 1]


def test_classes_go_before_each_other_and_one_text_before_the_rest_of_a_thousand() -> None:
    queue = _queue()
    queue.add(_job(1, *[50] * 1000, level=-1), 0.0)
    assert _ids(queue) == [(1, 0), (1, 1)]
    queue.add(_job(2, *[50] * 10), 0.0)
    assert _ids(queue) == [(2, 0), (2, 1)]
    queue.add(_job(3, 50), 0.0)
    assert _ids(queue) == [(3, 0), (2, 2)]


def test_keys_share_by_weight() -> None:
    queue = _queue(batch_texts=1)
    queue.add(_job(1, *[10] * 200, key="a", weight=3.0), 0.0)
    queue.add(_job(2, *[10] * 200, key="b"), 0.0)
    served = [queue.take(0.0)[0].job.id for _ in range(100)]
    assert served.count(1) == pytest.approx(75, abs=2)


def test_who_has_waited_long_gets_a_turn() -> None:
    queue = _queue(batch_texts=1)
    queue.add(_job(1, *[10] * 9, level=1), 0.0)
    queue.add(_job(2, *[10] * 9, level=-1), 0.0)
    assert [queue.take(now)[0].job.id for now in (1.0, 29.0, 30.5, 31.0, 59.0)] == [1, 1, 2, 1, 1]


def test_a_job_that_leaves_is_computed_no_further() -> None:
    queue = _queue()
    queue.add(_job(1, *[60] * 3), 0.0)
    queue.take(0.0)
    assert queue.remove(1) is not None
    assert queue.remove(1) is None
    assert not queue.has_work


# --- the core ------------------------------------------------------------------------------------


def _core(path: str = "sim:task=embed", **fields: Any) -> EncodingCore:
    model = registry.open_model(path)
    encoding = choose_encoding(model.spec)
    assert encoding is not None
    spec = EncoderSpec(
        encoding.task, encoding.pooling, n_ctx=512, n_rows=512, n_texts=64, threads=1
    )
    encoder = SimEncoder(spec, parse_options(path))
    return EncodingCore(encoder, _queue(batch_texts=64, **fields))


def _run(core: EncodingCore) -> dict[int, wire.Embedded | wire.Reject]:
    answers: dict[int, wire.Embedded | wire.Reject] = {}
    for _ in range(1000):
        if not core.has_work:
            return answers
        answers.update((answer.rid, answer) for answer in core.step())
    raise AssertionError("there is no end")


def _values(answer: wire.Embedded | wire.Reject) -> Any:
    assert isinstance(answer, wire.Embedded)
    return np.frombuffer(answer.values, "<f4").reshape(answer.n, answer.dim)


def test_vectors_come_in_the_order_of_the_texts() -> None:
    core = _core()
    texts = [[i % 250 + 1] * (1 + i * 7 % 40) for i in range(200)]
    core.add(Job(1, [Text(tokens) for tokens in texts], 5))
    answer = _run(core)[1]
    assert isinstance(answer, wire.Embedded)
    assert (answer.n, answer.dim, answer.n_prompt) == (200, 32, 5)
    assert isinstance(core.encoder, SimEncoder)
    np.testing.assert_array_equal(_values(answer), [core.encoder.vector(t) for t in texts])
    assert core.counters.n_texts == 200
    assert core.counters.n_tokens == sum(map(len, texts))
    assert core.counters.n_steps > 20


def test_a_vector_is_cut_and_made_of_length_1_again() -> None:
    core = _core()
    core.add(Job(1, [Text([1, 2, 3])], 3))
    core.add(Job(2, [Text([1, 2, 3])], 3, dimensions=8))
    answers = _run(core)
    whole, cut = _values(answers[1]), _values(answers[2])
    assert cut.shape == (1, 8)
    np.testing.assert_allclose(np.linalg.norm(cut), 1, atol=1e-6)
    np.testing.assert_allclose(cut[0], whole[0, :8] / np.linalg.norm(whole[0, :8]), atol=1e-6)


def test_batches_that_fail_are_repeated_each_job_for_itself() -> None:
    core = _core("sim:task=embed,fail_every=2", batch_tokens=20)
    for rid in range(1, 5):
        core.add(Job(rid, [Text([rid] * 10)] * 3, 30))
    answers = _run(core)
    assert set(answers) == {1, 2, 3, 4}
    assert core.counters.n_step_failures
    assert any(isinstance(answer, wire.Embedded) for answer in answers.values())
    for rid, answer in answers.items():
        if isinstance(answer, wire.Embedded):
            vector = core.encoder.vector([rid] * 10)  # type: ignore[attr-defined]
            np.testing.assert_array_equal(_values(answer), [vector] * 3)
        else:
            assert answer.status == 500
            assert answer.code == "step_failed"
    assert len(core.queue) == 0


def test_a_job_that_always_fails_is_over() -> None:
    core = _core("sim:task=embed,fail_every=1")
    core.add(Job(1, [Text([1])], 1))
    answer = _run(core)[1]
    assert isinstance(answer, wire.Reject)
    assert core.counters.n_step_failures == 2


# --- the intake ----------------------------------------------------------------------------------


def _intake(model: Any = EMBEDS, task: wire.EncodingTask = "embed") -> EncodingIntake:
    return EncodingIntake(model, name="m", task=task, context=16, dim=32)


def _refusal(intake: EncodingIntake, **fields: Any) -> wire.Reject:
    with pytest.raises(Refused) as refused:
        intake.embed(wire.Embed(1, **fields))
    assert refused.value.frame.status == 400
    return refused.value.frame


def test_texts_and_their_tokens_are_the_same() -> None:
    by_text = _intake().embed(wire.Embed(1, texts=["abc", "de"]))
    by_tokens = _intake().embed(wire.Embed(1, token_lists=[list(b"abc"), list(b"de")]))
    assert by_text.texts == by_tokens.texts
    assert by_text.n_prompt == by_tokens.n_prompt == 5


def test_what_is_too_long_is_refused_unless_it_may_be_cut() -> None:
    reject = _refusal(_intake(), texts=["a", "x" * 17])
    assert (reject.code, reject.param) == ("context_length_exceeded", "input[1]")
    assert "17 tokens" in reject.message
    assert "takes 16" in reject.message
    for truncate, n in ((-1, 16), (5, 5), (100, 16)):
        job = _intake().embed(wire.Embed(1, texts=["x" * 17], truncate=truncate))
        assert len(job.texts[0].tokens) == n
    tokens = _intake().embed(wire.Embed(1, token_lists=[[7] * 20], truncate=-1))
    assert tokens.texts[0].tokens == [7] * 16


def test_what_is_no_input() -> None:
    assert _refusal(_intake(), texts=[""]).param == "input"
    assert _refusal(_intake(), token_lists=[[1], []]).param == "input[1]"
    assert "outside the vocabulary" in _refusal(_intake(), token_lists=[[1, 300]]).message
    assert _refusal(_intake(), texts=["a"], dimensions=33).param == "dimensions"


def test_what_the_model_is_not_for() -> None:
    assert _refusal(_intake(), texts=["a"], query="b").code == "wrong_task"
    assert _refusal(_intake(RANKS, "rerank"), texts=["a"]).code == "wrong_task"
    frame = wire.Submit(3, wire.Sampling(), text="a")
    assert _intake().submit(frame).frame.code == "wrong_task"


def test_pairs_have_marks_and_documents_are_cut_to_fit() -> None:
    intake = _intake(RANKS, "rerank")
    job = intake.embed(wire.Embed(1, texts=["xyz"], query="ab"))
    bos, end = 256, 257
    assert job.texts == [Text([bos, 97, 98, end, 120, 121, 122, end], 4)]
    cut = intake.embed(wire.Embed(1, texts=["x" * 40, "y"], query="ab", truncate=-1))
    assert [len(text.tokens) for text in cut.texts] == [16, 6]
    assert cut.texts[0].tokens[-1] == end
    few = intake.embed(wire.Embed(1, texts=["x" * 40], query="ab", most_document_tokens=3))
    assert len(few.texts[0].tokens) == 8
    reject = _refusal(intake, texts=["a", "x" * 40], query="ab")
    assert (reject.code, reject.param) == ("context_length_exceeded", "documents[1]")
    reject = _refusal(intake, texts=["a"], query="q" * 20, truncate=-1)
    assert (reject.code, reject.param) == ("context_length_exceeded", "query")


def test_a_template_makes_a_pair_one_text() -> None:
    template = "<|im_start|>{query}?{document}!<|im_end|>"
    pair = _fill(RANKS.tokenizer, template, "a{document}", "b{query}", None)
    text = b"a{document}?b{query}!"
    assert pair.tokens == [258, *text, 257]
    assert pair.n_second == 8
    assert _fill(RANKS.tokenizer, template, "q", "long", 2).tokens == [258, *b"q?lo!", 257]


def test_marks_around_a_text() -> None:
    assert marks_around([1, 5, 6, 2], [5, 6]) == (1, 1)
    assert marks_around([5, 6, 2, 3], [5, 6]) == (0, 2)
    assert marks_around([5, 6], [5, 6]) == (0, 0)
    assert marks_around([1, 9, 2], [5, 6]) == (0, 0)


# --- loading -------------------------------------------------------------------------------------


def test_the_context_is_what_a_share_of_the_budget_holds() -> None:
    def need(context: int) -> Any:
        from hearth_backends.base import Bytes

        return Bytes(100, 0, context * context)

    assert context_that_fits(512, 200, need) == 512
    assert context_that_fits(32768, None, need) == 8192
    assert context_that_fits(4096, 100 + 2 * 1024 * 1024, need) == 1024
    assert context_that_fits(4096, 0, need) == 512


def test_sizes_that_contradict_the_model() -> None:
    load = wire.Load("m", "sim:task=embed", context=100_000)
    with pytest.raises(Unsupported, match="trained for 4096"):
        plan_encoder(load, EMBEDS, Encoding("embed", "mean"))
    stages = [wire.StageConfig("sim", layers=(0, 2)), wire.StageConfig("sim", layers=(2, 4))]
    load = wire.Load("m", "sim:task=embed", stages=stages)
    with pytest.raises(Unsupported, match="runs whole"):
        plan_encoder(load, EMBEDS, Encoding("embed", "mean"))
    load = wire.Load("m", "sim:task=embed", draft=wire.DraftConfig("d", "sim:"))
    with pytest.raises(Unsupported, match="models that generate"):
        plan_encoder(load, EMBEDS, Encoding("embed", "mean"))


def test_the_probe_says_what_models_are_for() -> None:
    paths = ["sim:task=embed", "sim:task=rerank", "sim:"]
    models = msgspec.json.decode(probe(paths))["models"]
    assert [models[path]["task"] for path in paths] == ["embed", "rerank", "generate"]
    assert all(models[path]["support"]["sim"]["cpu:0"] == "yes" for path in paths)


# --- the process ---------------------------------------------------------------------------------


def test_an_engine_that_embeds() -> None:
    with EngineProcess() as engine:
        ready = engine.load("sim:task=embed")
        info = ready.info
        assert (info.task, info.embedding_size, info.pooling) == ("embed", 32, "mean")
        engine.send(wire.Probe(1))
        assert engine.wait_for(wire.Probed).number == 1
        engine.send(wire.Embed(7, texts=["abc", "abd", "xyz"]))
        values = _values(engine.wait_for(wire.Embedded))
        assert values[0] @ values[1] > values[0] @ values[2]
        engine.send(wire.Submit(8, wire.Sampling(), text="abc"))
        assert engine.wait_for(wire.Reject).code == "wrong_task"
        engine.send(wire.Encode(9, text="abc"))
        assert engine.wait_for(wire.Encoded).tokens == list(b"abc")
        beat = engine.wait_for(wire.Beat, lambda beat: beat.n_texts > 0)
        assert beat.n_prompt_tokens == 9
        assert beat.kv_tokens_free is None
        engine.send(wire.Stop())
        with pytest.raises(EOFError):
            engine.wait_for(wire.Probed)


def test_an_engine_that_generates_embeds_nothing() -> None:
    with EngineProcess() as engine:
        engine.load("sim:")
        engine.send(wire.Embed(1, texts=["abc"]))
        reject = engine.wait_for(wire.Reject)
        assert (reject.rid, reject.status, reject.code) == (1, 400, "wrong_task")


def test_a_job_that_was_cancelled_leaves_room_for_others() -> None:
    with EngineProcess() as engine:
        engine.load("sim:task=embed,latency_ms=100", step_tokens=4)
        engine.send(wire.Embed(1, texts=["abcd"] * 100))
        engine.send(wire.Embed(2, texts=["ab"]))
        engine.send(wire.Cancel(1))
        began = time.monotonic()
        assert engine.wait_for(wire.Embedded).rid == 2
        engine.send(wire.Embed(3, texts=["abcd"] * 2))
        assert engine.wait_for(wire.Embedded).rid == 3
        assert time.monotonic() - began < 5
