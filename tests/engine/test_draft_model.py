"""A draft model: the same tokens with it as without, in every layout, whatever goes wrong with it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from eager_drafter import EagerDrafter
from engine_rig import Rig
from shells import StageShell
from sim_oracle import expected, expected_under

import hearth_backends
from hearth_backends.base import Batch, Handle, Hidden, Stage
from hearth_backends.canary import tasks, tokens
from hearth_backends.errors import BackendError
from hearthd import wire
from hearthd.engine.drafting.vocabularies import difference
from hearthd.engine.load_plan import plan_load
from hearthd.engine.loader import execute_load

CANARY = str(Path(hearth_backends.__file__).parent / "canary" / "canary.gguf")
SIM = "sim:layers=2,context=512"
PROMPT = list(b"The draft model has seen this, and guesses what comes next.")
DRAWN = wire.Sampling(temperature=1.0, seed=7, top_k=40)
GREEDY = wire.Sampling(temperature=0.0)


def eager(rig: Rig) -> EagerDrafter:
    drafter = rig.core.scheduler.drafter
    assert isinstance(drafter, EagerDrafter)
    return drafter


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, wire.Sampling(repetition_penalty=1.3, seed=2)])
@pytest.mark.parametrize("variant", ["blocks", "cells", "slots", "cells,depth=1,wants=2"])
def test_a_model_that_thinks_the_same_guesses_the_same(
    variant: str, sampling: wire.Sampling
) -> None:
    output = expected(SIM, PROMPT, sampling, max_tokens=60)
    with Rig(SIM, draft=f"sim:layers=2,variant={variant}") as rig:
        answer = rig.answer(PROMPT, sampling, max_tokens=60)
        assert answer.output == output
        drafter = eager(rig)
        assert drafter.n_accepted == drafter.n_proposed > 0.7 * len(output)
        assert rig.n_steps < 0.3 * len(output) + 3
        rig.assert_nothing_leaked()


def test_a_model_that_thinks_otherwise_changes_nothing() -> None:
    with Rig(SIM, draft="sim:layers=2,seed=99") as rig:
        answer = rig.answer(PROMPT, GREEDY, max_tokens=40, ignore_eos=True)
        assert answer.output == expected(SIM, PROMPT, max_tokens=40, ignore_eos=True)
        assert eager(rig).n_proposed > 100
        assert eager(rig).n_accepted < 5
        rig.assert_nothing_leaked()


def test_requests_side_by_side_are_guessed_for_together() -> None:
    prompts = [PROMPT[: 20 + 9 * i] for i in range(4)]
    with Rig(SIM, draft="sim:layers=2") as rig:
        rids = [rig.submit(prompt, DRAWN, max_tokens=40, ignore_eos=True) for prompt in prompts]
        rig.run()
        for rid, prompt in zip(rids, prompts, strict=True):
            output = expected(SIM, prompt, DRAWN, max_tokens=40, ignore_eos=True)
            assert rig.answers[rid].output == output
        assert rig.draft_model is not None
        assert rig.draft_model.costs.known(4)
        rig.assert_nothing_leaked()


def test_the_next_turn_begins_where_the_draft_model_was() -> None:
    with Rig(SIM, draft="sim:layers=2") as rig:
        model = rig.draft_model
        assert model is not None
        output = rig.answer(PROMPT, max_tokens=30, ignore_eos=True).output
        rig.submit([*PROMPT, *output, *b" And now?"], max_tokens=10, ignore_eos=True)
        rig.step()
        (request,) = rig.core.scheduler.running
        assert model.n_behind(request) < 30
        rig.run()


def test_a_preempted_request_is_followed_again() -> None:
    prompts = [PROMPT[:30] + [65 + i] * 10 for i in range(3)]
    with Rig(SIM, draft="sim:layers=2", kv_tokens=144, context=128) as rig:
        rids = [rig.submit(prompt, max_tokens=60, ignore_eos=True) for prompt in prompts]
        rig.run()
        for rid, prompt in zip(rids, prompts, strict=True):
            output = expected(SIM, prompt, max_tokens=60, ignore_eos=True)
            assert rig.answers[rid].output == output
        assert rig.core.scheduler.n_preemptions
        assert eager(rig).n_accepted == eager(rig).n_proposed > 60
        rig.assert_nothing_leaked()


def test_guesses_keep_to_a_grammar() -> None:
    constraint = wire.RegexConstraint("(yes|no|perhaps){20}")
    sampling = wire.Sampling(temperature=1.0, seed=3)
    output = expected_under(SIM, PROMPT, sampling, constraint, max_tokens=100)
    with Rig(SIM, draft="sim:layers=2") as rig:
        answer = rig.answer(PROMPT, sampling, constraint=constraint, max_tokens=100)
        assert answer.output == output
        assert eager(rig).n_accepted == eager(rig).n_proposed > 20


def test_where_its_context_ends_it_guesses_no_more() -> None:
    with Rig(SIM, draft="sim:layers=2,context=80") as rig:
        answer = rig.answer(PROMPT, max_tokens=60, ignore_eos=True)
        assert answer.output == expected(SIM, PROMPT, max_tokens=60, ignore_eos=True)
        assert 0 < eager(rig).n_accepted < 80 - len(PROMPT)
        rig.assert_nothing_leaked()


# --- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["fail_every=1", "starve_every=1", "depth=1,fail_every=1"])
def test_a_draft_model_that_fails_again_and_again_is_switched_off(fault: str) -> None:
    with Rig(SIM, draft=f"sim:layers=2,{fault}") as rig:
        answer = rig.answer(PROMPT, max_tokens=20)
        assert answer.output == expected(SIM, PROMPT, max_tokens=20)
        assert "as it was told" in (eager(rig).report().failure or "")
        assert not rig.core.counters.n_step_failures
        rig.assert_nothing_leaked()
        assert rig.answer(PROMPT, max_tokens=5).finish == "length"


def test_one_that_fails_now_and_then_goes_on() -> None:
    with Rig(SIM, draft="sim:layers=2,fail_every=3") as rig:
        answer = rig.answer(PROMPT, max_tokens=40, ignore_eos=True)
        assert answer.output == expected(SIM, PROMPT, max_tokens=40, ignore_eos=True)
        assert eager(rig).report().failure is None
        assert eager(rig).n_accepted == eager(rig).n_proposed > 15
        rig.assert_nothing_leaked()


class Lost(StageShell):
    """A device that is gone after some steps."""

    def __init__(self, inner: Stage, after: int) -> None:
        super().__init__(inner)
        self._n_left = after

    def submit(self, batch: Batch, x: Hidden | None) -> Handle:
        self._n_left -= 1
        if self._n_left < 0:
            raise BackendError("the device is gone")
        return self.inner.submit(batch, x)


@pytest.mark.parametrize("after", [0, 1, 2, 7])
def test_one_whose_device_is_gone_is_switched_off_at_once(after: int) -> None:
    prompts = [PROMPT, PROMPT[:33], PROMPT[5:]]
    with Rig(SIM, draft="sim:layers=2", wrap_draft=partial(Lost, after=after)) as rig:
        rids = [rig.submit(prompt, max_tokens=30, ignore_eos=True) for prompt in prompts]
        rig.run()
        for rid, prompt in zip(rids, prompts, strict=True):
            output = expected(SIM, prompt, max_tokens=30, ignore_eos=True)
            assert rig.answers[rid].output == output
        assert eager(rig).report().failure == "the device is gone"
        rig.assert_nothing_leaked()


# --- what is refused, and what is not --------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "draft", "words"),
    [
        ("sim:variant=states", "sim:", "draft = 'small': .*memory that can step back"),
        ("sim:", "sim:variant=states", "draft = 'small': .*own memory cannot step back"),
        ("sim:variant=slots", "sim:", "different numbers of rows"),
        ("sim:", CANARY, "another vocabulary than sim:: token 256 is '<|bos|>' in one and '<"),
        ("sim:", "sim:fail_load=no good", "no good"),
    ],
)
def test_what_cannot_be_is_refused_in_words(path: str, draft: str, words: str) -> None:
    if draft == CANARY:
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    load = wire.Load("m", path, context=256, draft=wire.DraftConfig("small", draft))
    with pytest.raises(BackendError, match=words.replace("|", r"\|")):
        execute_load(plan_load(load), load, lambda _: 1, lambda _: None)


class Words:
    """A vocabulary of these pieces; the last n are no text."""

    def __init__(self, pieces: list[bytes], n_mute: int = 0) -> None:
        self.n_vocab = len(pieces)
        self._pieces = pieces
        self._n_text = len(pieces) - n_mute

    def piece(self, token: int, *, special: bool = False) -> bytes:
        return self._pieces[token] if special or token < self._n_text else b""


def test_vocabularies_may_differ_in_padding_only() -> None:
    plain = Words([b"a", b"b"])
    assert difference(plain, plain) is None
    assert difference(plain, Words([b"a", b"b", b"<pad>"], 1)) is None
    assert difference(Words([b"a", b"b", b"<pad>"], 1), plain) is None
    assert difference(plain, Words([b"a", b"c"])) == "token 1 is 'b' in one and 'c' in the other"
    assert difference(plain, Words([b"a", b"b", b"\xff"])) == (
        "one has 2 tokens, the other 3, and token 2 of those is '\\\\xff'"
    )


@pytest.mark.parametrize(
    ("path", "draft"), [("vocab=400", "vocab=300"), ("vocab=300", "vocab=400")]
)
def test_tokens_that_only_one_of_them_has(path: str, draft: str) -> None:
    path, draft = f"{SIM},{path}", f"sim:layers=2,{draft}"
    with Rig(path, draft=draft) as rig:
        n_vocab = rig.model.spec.n_vocab
        for prompt in (PROMPT, [*PROMPT, n_vocab - 1]):
            answer = rig.answer(prompt, max_tokens=20, ignore_eos=True)
            assert answer.output == expected(path, prompt, max_tokens=20, ignore_eos=True)
        assert rig.draft_model is not None
        assert rig.draft_model.n_vocab == 300
        rig.assert_nothing_leaked()


def test_it_has_leases_and_room_of_its_own() -> None:
    small = wire.DraftConfig("small", "sim:layers=1,context=100")
    load = wire.Load("m", SIM, context=200, concurrency=3, draft=small)
    asked: list[wire.LeaseRequest] = []

    def grant(request: wire.LeaseRequest) -> int:
        asked.append(request)
        return len(asked)

    plan = plan_load(load)
    execute_load(plan, load, grant, lambda _: None).close()
    assert [request.device for request in asked] == ["cpu:0", "cpu:0"]
    assert asked[1].explanation.startswith("sim:layers=1,context=100: context 100 x 3")
    assert plan.draft is not None
    assert plan.draft.room.kv_tokens == plan.room.kv_tokens


def test_both_share_what_memory_there_is() -> None:
    load = wire.Load(
        "m",
        "sim:layers=2,context=4096",
        concurrency=16,
        budget_bytes=4_000_000,
        draft=wire.DraftConfig("small", "sim:layers=1,context=4096"),
    )
    plan, alone = plan_load(load), plan_load(msgspec.structs.replace(load, draft=None))
    assert 4096 < plan.room.kv_tokens < alone.room.kv_tokens
    assert plan.draft is not None
    needs = [*plan.lease_requests(), *plan.draft.lease_requests()]
    assert sum(n.weights_bytes + n.kv_bytes + n.workspace_bytes for n in needs) <= 4_000_000


# --- real models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("n_stages", [1, 2])
def test_the_canary_guesses_for_itself(n_stages: int, temperature: float) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    prompt = tokens.prompt([tasks.user("Sing!")])
    sampling = wire.Sampling(temperature=temperature, seed=4)
    sizes: dict[str, Any] = {"context": 512, "threads": 1, "kv_dtype": "f32", "n_stages": n_stages}
    with Rig(CANARY, **sizes) as rig:
        alone = rig.answer(prompt, sampling, max_tokens=200)
    with Rig(CANARY, draft=CANARY, **sizes) as rig:
        drafted = rig.answer(prompt, sampling, max_tokens=200)
        assert drafted.text == alone.text
        assert len(drafted.tokens) > 150
        assert eager(rig).n_accepted > 0.97 * eager(rig).n_proposed > 100
        rig.assert_nothing_leaked()
