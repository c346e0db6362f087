"""What every backend is asked to do; a feature is a function that fails, passes or is refused in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jsonschema
import numpy as np
import pytest
import sim_oracle
from by_hand import export_after_prompt, restore_and_decode
from eager_drafter import EagerDrafter
from engine_rig import Answer
from shells import Flaky, Masking, Starving, mask_of
from sim_oracle import ScriptedDrafter
from subjects import GREEDY, Ask, Subject

from hearth_backends.base import Stage
from hearth_backends.errors import Unsupported
from hearthd import wire
from hearthd.engine.prefixes.opening import refusal


@dataclass(frozen=True)
class Feature:
    """One column of the matrix."""

    name: str
    promise: str
    run: Callable[[Subject], None]


FEATURES: list[Feature] = []


def feature(promise: str) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Make a function a column, under its own name."""

    def register(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        FEATURES.append(Feature(run.__name__, promise, run))
        return run

    return register


def _various(subject: Subject, n: int) -> list[Ask]:
    """Requests that differ in length and sampling."""
    samplings = [GREEDY, wire.Sampling(temperature=1.0, seed=5, top_k=20), GREEDY]
    return [
        subject.ask(seed, n_prompt=5 + 17 * (seed % 5), sampling=samplings[seed % 3])
        for seed in range(n)
    ]


def _run_all(subject: Subject, asks: list[Ask], **options: object) -> None:
    """All at once in one engine; each gets what it gets alone."""
    with subject.rig(**options) as rig:
        rids = [subject.submit(rig, ask) for ask in asks]
        rig.run()
        for rid, ask in zip(rids, asks, strict=True):
            subject.check(rig.answers[rid], ask)
        rig.assert_nothing_leaked()


@feature("requests side by side get what each gets alone")
def streams(subject: Subject) -> None:
    _run_all(subject, _various(subject, 8), concurrency=8)


@feature("a prompt in chunks of any size gives the same output")
def chunks(subject: Subject) -> None:
    ask = subject.ask(3, n_prompt=61)
    for step_tokens in (1, 7, 16, 60):
        _run_all(subject, [ask], concurrency=1, step_tokens=step_tokens)


@feature("requests that come later change nothing for those that run")
def late_joins(subject: Subject) -> None:
    asks = _various(subject, 5)
    with subject.rig() as rig:
        rids = []
        for ask in asks:
            rids.append(subject.submit(rig, ask))
            for _ in range(3):
                rig.step()
        rig.run()
        for rid, ask in zip(rids, asks, strict=True):
            subject.check(rig.answers[rid], ask)


@feature(
    "a prefix computed for one request is used by others, running or gone, with the same output"
)
def shared_prefixes(subject: Subject) -> None:
    first = subject.ask(4, n_prompt=64, max_tokens=20)
    tails = [replace(first, prompt=first.prompt + subject.prompt(seed, 9)) for seed in range(3)]
    with subject.rig(concurrency=4, kv_tokens=1024) as rig:
        asks = [first, *tails, *tails, first]
        rids = [subject.submit(rig, first)]
        for _ in range(6):
            rig.step()
        rids += [subject.submit(rig, ask) for ask in tails]
        rig.run()
        rids += [subject.submit(rig, ask) for ask in asks[4:]]
        rig.run()
        for rid, ask in zip(rids, asks, strict=True):
            subject.check(rig.answers[rid], ask)
        cached = [usage.n_cached for rid in rids if (usage := rig.answers[rid].usage)]
        assert cached[0] == 0
        assert min(cached[4:]) >= 32
        rig.assert_nothing_leaked()


@feature("a prefix that had to leave memory is put back, not computed again, with the same output")
def recalls(subject: Subject) -> None:
    first, *others = [subject.ask(seed, n_prompt=100) for seed in range(6)]
    for kv_tokens in (256, 176):
        with subject.rig(
            concurrency=2, context=128, kv_tokens=kv_tokens, prefix_ram_bytes=64 << 20
        ) as rig:
            if rig.core.prefixes is None:
                raise Unsupported(refusal(rig.core.pipeline) or "nothing is said")
            rid = 0
            for ask in (first, *others, first):
                rid = subject.submit(rig, ask)
                rig.run()
                subject.check(rig.answers[rid], ask)
            usage = rig.answers[rid].usage
            assert usage is not None
            assert usage.n_cached == 96
            assert rig.core.prefixes.counters.n_recalls
            assert not rig.core.counters.n_step_failures
            rig.assert_nothing_leaked()


@feature("guesses that are wrong are taken back, those that are right save steps")
def drafts(subject: Subject) -> None:
    asks = [subject.ask(seed, max_tokens=24) for seed in range(3)]
    outputs = {rid: subject.expect(ask) for rid, ask in enumerate(asks, 1)}
    n_steps = {}
    for wrong_every in (0, 1, 3):
        drafter = ScriptedDrafter(outputs, wrong_every)
        with subject.rig(drafter=drafter) as rig:
            rids = [subject.submit(rig, ask) for ask in asks]
            rig.run()
            for rid, ask in zip(rids, asks, strict=True):
                subject.check(rig.answers[rid], ask)
            rig.assert_nothing_leaked()
            n_steps[wrong_every] = rig.n_steps
        assert drafter.n_proposed
    assert n_steps[0] * 2 < n_steps[1]


@feature(
    "a draft model guesses ahead in memory of its own, also for requests that come and go, and if it fails nothing does"
)
def draft_models(subject: Subject) -> None:
    asks = [subject.ask(seed, n_prompt=20 + 17 * seed, max_tokens=24) for seed in range(4)]
    sizes = {"context": 112, "kv_tokens": 256, "concurrency": 3}
    for every in (0, 4):
        wrap = partial(Flaky, every=every) if every else _unwrapped
        with subject.rig(draft=subject.path, wrap_draft=wrap, **sizes) as rig:
            rids = [subject.submit(rig, ask) for ask in asks]
            gone = subject.submit(rig, replace(asks[0], max_tokens=80))
            for _ in range(5):
                rig.step()
            rig.cancel(gone)
            rig.run()
            for rid, ask in zip(rids, asks, strict=True):
                subject.check(rig.answers[rid], ask)
            rig.assert_nothing_leaked()
            drafter = rig.core.scheduler.drafter
            assert isinstance(drafter, EagerDrafter)
            assert drafter.model.failure is None
            assert drafter.n_proposed > 20
            assert drafter.n_accepted > 0.8 * drafter.n_proposed
    with subject.rig(draft=subject.path, wrap_draft=partial(Flaky, every=1)) as rig:
        rid = subject.submit(rig, asks[0])
        rig.run()
        subject.check(rig.answers[rid], asks[0])
        assert rig.draft_model is not None
        assert rig.draft_model.failure is not None
        assert not rig.core.counters.n_step_failures


def _unwrapped(stage: Stage) -> Stage:
    return stage


@feature("requests that do not fit together are preempted and go on where they were")
def preemption(subject: Subject) -> None:
    asks = [subject.ask(seed, n_prompt=30, max_tokens=40) for seed in range(4)]
    wrap = partial(Starving, every=9)
    with subject.rig(context=96, kv_tokens=160, wrap=wrap) as rig:
        rids = [subject.submit(rig, ask) for ask in asks]
        rig.run()
        for rid, ask in zip(rids, asks, strict=True):
            subject.check(rig.answers[rid], ask)
        assert rig.core.scheduler.n_preemptions
        rig.assert_nothing_leaked()


@feature("a mask decides what may be sampled")
def masks(subject: Subject) -> None:
    allowed = tuple(b"xyz01")
    asks = [
        subject.ask(1, allowed=allowed),
        subject.ask(2, allowed=allowed, sampling=wire.Sampling(temperature=1.0, seed=9)),
    ]
    with subject.rig() as rig:
        n_vocab = rig.model.spec.n_vocab
    with subject.rig(wrap=partial(Masking, mask=mask_of(allowed, n_vocab))) as rig:
        rids = [subject.submit(rig, ask) for ask in asks]
        rig.run()
        for rid, ask in zip(rids, asks, strict=True):
            assert set(rig.answers[rid].output) <= set(allowed)
            subject.check(rig.answers[rid], ask)


@feature("what an output must be it is, also after preemption, failure, and wrong guesses")
def grammars(subject: Subject) -> None:
    asks = [
        subject.ask(
            seed,
            n_prompt=20 + seed,
            max_tokens=60,
            constraint=constraint,
            ignore_eos=False,
            sampling=wire.Sampling(temperature=seed % 2, seed=seed),
        )
        for seed, constraint in enumerate(_constraints())
    ]
    free = [subject.ask(seed, max_tokens=20) for seed in range(2)]
    for options in (
        {},
        {"wrap": partial(Starving, every=9), "context": 128, "kv_tokens": 320},
        {"wrap": partial(Flaky, every=max(subject.fails_every))},
    ):
        with subject.rig(**options) as rig:
            rids = [subject.submit(rig, ask) for ask in (*asks, *free)]
            rig.run()
            for rid, ask in zip(rids, (*asks, *free), strict=True):
                subject.check(rig.answers[rid], ask)
            for rid, ask in zip(rids, asks, strict=False):
                _check_grammar(rig.answers[rid], ask)
            rig.assert_nothing_leaked()


def _constraints() -> list[wire.Constraint]:
    """Of every kind, and short."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "maximum": 99}, "b": {"enum": ["x", "yz"]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
    return [
        wire.JsonConstraint(schema),
        wire.RegexConstraint("(ab|cd){4}[0-9]{3}"),
        wire.ChoiceConstraint(["forty-two", "forty-three", "four"]),
        wire.GrammarConstraint('start: "(" (NUMBER | start) ")"\nNUMBER: /[0-9]{1,4}/'),
        wire.ToolConstraint([wire.Tool("f", schema), wire.Tool("g")], parallel=False),
    ]


def _check_grammar(answer: Answer, ask: Ask) -> None:
    """An output that came to its end is what it had to be."""
    if answer.finish == "length":
        return
    assert answer.finish == "stop"
    match ask.constraint:
        case wire.JsonConstraint():
            jsonschema.validate(json.loads(answer.text), ask.constraint.schema)
        case wire.RegexConstraint():
            assert re.fullmatch(ask.constraint.pattern, answer.text)
        case wire.ChoiceConstraint():
            assert answer.text in ask.constraint.choices
        case wire.GrammarConstraint():
            assert re.fullmatch(r"\(+[0-9]{1,4}\)+", answer.text)
        case wire.ToolConstraint():
            said = json.loads(answer.text.removeprefix("<tool_call>").removesuffix("</tool_call>"))
            tools = {tool.name: tool.parameters for tool in ask.constraint.tools}
            jsonschema.validate(said["arguments"], tools[said["name"]] or {"maxProperties": 0})


@feature("repetition, presence and frequency penalties and biases count what the request has said")
def penalties(subject: Subject) -> None:
    samplings = [
        wire.Sampling(temperature=0.0, repetition_penalty=1.5),
        wire.Sampling(temperature=0.0, presence_penalty=2.0, frequency_penalty=1.0),
        wire.Sampling(temperature=0.0, logit_bias=[(ord("e"), 3.0), (ord(" "), -100.0)]),
        wire.Sampling(temperature=0.7, seed=3, repetition_penalty=1.2, presence_penalty=0.5),
    ]
    asks = [subject.ask(i, sampling=sampling) for i, sampling in enumerate(samplings)]
    _run_all(subject, asks)
    _run_all(subject, asks, wrap=partial(Starving, every=7))
    assert ord(" ") not in subject.expect(asks[2])


@feature("log-probabilities of output and prompt are those of the model, whatever the chunks")
def logprobs(subject: Subject) -> None:
    ask = subject.ask(6, sampling=wire.Sampling(temperature=0.0, n_logprobs=3))
    with subject.rig() as rig:
        said = rig.answers[subject.submit(rig, ask)]
        other = subject.ask(7)
        rid = subject.submit(rig, other)
        rig.run()
        subject.check(rig.answers[rid], other)
    text = [*ask.prompt, *said.output]
    with subject.rig(step_tokens=16) as rig:
        scores = rig.answer(text, max_tokens=0, echo=True, prompt_logprobs=3).logprobs
    assert [entry.token for entry in scores] == text
    for generated, scored in zip(said.logprobs, scores[len(ask.prompt) :], strict=True):
        assert generated.token == scored.token
        assert generated.logprob == pytest.approx(scored.logprob, abs=2e-3)
        assert generated.top[0][0] == generated.token
        assert [p for _, _, p in generated.top] == pytest.approx(
            [p for _, _, p in scored.top], abs=2e-3
        )
    if subject.path.startswith("sim:"):
        exact = sim_oracle.expected_logprobs(subject.path, text)
        values = exact[np.arange(len(text) - 1), text[1:]]
        assert [entry.logprob for entry in scores[1:]] == pytest.approx(values.tolist(), abs=1e-4)


@feature("requests with LoRA adapters, with others and with none run side by side, each as alone")
def adapters(subject: Subject) -> None:
    asks = [
        replace(subject.ask(seed), adapter=name)
        for seed in (30, 31)
        for name in (None, *subject.adapters)
    ]
    lora = subject.lora()
    for options in ({}, {"wrap": partial(Starving, every=9)}):
        with subject.rig(lora=lora, concurrency=8, **options) as rig:
            rids: list[int] = []
            for _ in range(2):
                rids = [subject.submit(rig, ask) for ask in asks]
                rig.run()
                for rid, ask in zip(rids, asks, strict=True):
                    subject.check(rig.answers[rid], ask)
            cached = [usage.n_cached for rid in rids if (usage := rig.answers[rid].usage)]
            assert max(cached) >= 32
            rig.assert_nothing_leaked()
    same_prompt = [tuple(subject.expect(ask)) for ask in asks[:3]]
    assert len(set(same_prompt)) == 3


@feature("a request whose client has gone is gone within a step, and disturbs nobody")
def cancel(subject: Subject) -> None:
    asks = [subject.ask(seed, max_tokens=20) for seed in range(6)]
    with subject.rig(concurrency=4) as rig:
        rids = [subject.submit(rig, ask) for ask in asks]
        for step in range(6):
            rig.step()
            if step % 2:
                rig.cancel(rids[step])
        rig.run()
        for i in (0, 2, 4):
            subject.check(rig.answers[rids[i]], asks[i])
        rig.assert_nothing_leaked()
        last = subject.submit(rig, replace(asks[0], max_tokens=100))
        rig.step()
        rig.cancel(last)
        rig.step()
        rig.assert_nothing_leaked()


@feature("steps that fail are repeated, with the same output")
def failures(subject: Subject) -> None:
    for every in subject.fails_every:
        _run_all(subject, _various(subject, 5), wrap=partial(Flaky, every=every))


@feature("memory exported from one engine goes on in another")
def export(subject: Subject) -> None:
    ask = subject.ask(8, n_prompt=37)
    with subject.rig() as rig:
        blobs, first = export_after_prompt(rig, ask.prompt)
    with subject.rig() as rig:
        output = [first, *restore_and_decode(rig, [*ask.prompt, first], blobs, n=4)]
    assert output == subject.expect(ask)[:5]


@feature("a shortest output, a longest one, and ends that are not to count")
def limits(subject: Subject) -> None:
    ends = [subject.ask(seed, max_tokens=60, ignore_eos=False) for seed in range(4)]
    _run_all(subject, ends, context=128)
    _run_all(subject, [replace(ask, min_tokens=50) for ask in ends], context=128)
    assert all(len(subject.expect(replace(ask, min_tokens=50))) >= 50 for ask in ends)
    _run_all(subject, [replace(ask, ignore_eos=True) for ask in ends], context=128)
