"""Tests of outputs that have to be something, in an engine: their ends, guesses, resumption, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sim_oracle
from engine_rig import Answer, Rig
from sim_oracle import ScriptedDrafter

from hearth_backends.sim.tokenizer import IM_START, ByteTokenizer
from hearthd import wire
from hearthd.engine.refused import Refused
from hearthd.engine.text import TextStream

SIM = "sim:layers=2"
PROMPT = tuple(b"tell me about it")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "maximum": 9999},
        "s": {"type": "string", "maxLength": 12},
    },
    "required": ["n", "s"],
    "additionalProperties": False,
}
JSON = wire.JsonConstraint(SCHEMA)
WARM = wire.Sampling(temperature=1.0, seed=4)


def expected(constraint: wire.Constraint = JSON, max_tokens: int = 200) -> list[int]:
    return sim_oracle.expected_under(SIM, PROMPT, WARM, constraint, max_tokens=max_tokens)


def answer(constraint: wire.Constraint = JSON, max_tokens: int = 200, **fields: Any) -> Answer:
    with Rig(SIM) as rig:
        said = rig.answer(PROMPT, WARM, constraint=constraint, max_tokens=max_tokens, **fields)
        rig.assert_nothing_leaked()
    return said


def test_an_output_ends_when_it_is_whole() -> None:
    said = answer()
    assert said.output == expected()
    assert (said.finish, said.stopped_by) == ("stop", None)
    assert json.loads(said.text).keys() == {"n", "s"}
    assert said.usage is not None
    assert said.usage.n_output == len(said.tokens)


def test_an_output_that_may_go_on_ends_by_its_own_end() -> None:
    for seed in range(6):
        with Rig(SIM) as rig:
            said = rig.answer(
                PROMPT,
                wire.Sampling(temperature=1.0, seed=seed, logit_bias=[(257, 40.0)]),
                constraint=wire.RegexConstraint("(ab){2,9}"),
                max_tokens=100,
                ignore_eos=bool(seed % 2),  # what is whole has to end all the same
            )
        assert said.text == "abab"
        assert (said.finish, said.stopped_by) == ("stop", 257)


def test_a_cut_output_says_length() -> None:
    said = answer(max_tokens=5)
    assert (said.finish, len(said.tokens)) == ("length", 5)
    assert said.output == expected()[:5]


def test_a_whole_output_of_the_longest_length_says_stop() -> None:
    said = answer(wire.ChoiceConstraint(["four", "five"]), max_tokens=4)
    assert (said.finish, len(said.tokens)) == ("stop", 4)


def test_what_is_whole_ends_before_min_tokens() -> None:
    said = answer(wire.ChoiceConstraint(["four", "five"]), min_tokens=10)
    assert said.text in ("four", "five")
    assert said.finish == "stop"


def test_stop_strings_end_it_too() -> None:
    said = answer(wire.ChoiceConstraint(["forty-two", "forty-six"]), stop=["-"])
    assert (said.text, said.finish, said.stopped_by) == ("forty", "stop", "-")


@pytest.mark.parametrize("wrong_every", [0, 1, 3])
def test_guesses_are_held_to_the_grammar(wrong_every: int) -> None:
    output = expected()
    drafter = ScriptedDrafter({1: output}, wrong_every)
    with Rig(SIM, drafter=drafter) as rig:
        said = rig.answer(PROMPT, WARM, constraint=JSON, max_tokens=200)
        assert said.output == output
        assert drafter.n_proposed
        if not wrong_every:
            assert rig.n_steps < len(output) / 2


def test_an_output_goes_on_from_what_was_emitted() -> None:
    output = expected()
    for n in range(len(output)):
        with Rig(SIM) as rig:
            said = rig.answer(PROMPT, WARM, constraint=JSON, max_tokens=200, emitted=output[:n])
            assert said.output == output[n:]
            assert said.finish == "stop"


def test_what_was_emitted_has_to_fit() -> None:
    with Rig(SIM) as rig, pytest.raises(Refused) as caught:
        rig.submit(PROMPT, WARM, constraint=JSON, emitted=list(b"no"))
    assert caught.value.frame.param == "emitted"


def test_a_constraint_that_cannot_be_seen_to_is_refused() -> None:
    schema: dict[str, Any] = {"properties": {"a": {"not": {}}}}
    with Rig(SIM) as rig, pytest.raises(Refused) as caught:
        rig.submit(PROMPT, WARM, constraint=wire.JsonConstraint(schema, param="response_format"))
    frame = caught.value.frame
    assert (frame.status, frame.code) == (400, "unsupported")
    assert frame.param == "response_format.properties.a.not"
    assert "'not'" in frame.message


def test_a_grammar_that_breaks_fails_its_request_alone() -> None:
    with Rig(SIM) as rig:
        rid = rig.submit(PROMPT, WARM, constraint=JSON, max_tokens=200)
        other = rig.submit(PROMPT, WARM, constraint=JSON, max_tokens=200)
        for _ in range(3):
            rig.step()
        broken = rig.core.scheduler.running[0]
        assert broken.id == rid
        assert broken.grammar is not None
        assert not broken.grammar.accept(0)
        rig.run()
        assert rig.answers[rid].finish == "error"
        code, message = rig.answers[rid].error or ("", "")
        assert code == "no_token"
        assert "grammar" in message
        assert rig.answers[other].output == expected()
        rig.assert_nothing_leaked()


def test_masks_and_log_probabilities_of_the_prompt_in_one_step() -> None:
    with Rig(SIM) as rig:
        constrained = rig.submit(PROMPT, WARM, constraint=JSON, max_tokens=200)
        rig.step()
        scored = rig.submit(PROMPT, WARM, max_tokens=3, echo=True, prompt_logprobs=1)
        rig.run()
        assert rig.answers[constrained].output == expected()
        assert len(rig.answers[scored].logprobs) == len(PROMPT) + 3


def test_marks_of_calls_are_text_where_they_are_wanted() -> None:
    tokenizer = ByteTokenizer(300, add_bos=False)
    hidden = TextStream(tokenizer)
    shown = TextStream(tokenizer, shown=frozenset((IM_START,)))
    for token in (ord("a"), IM_START, ord("b")):
        hidden.push(token)
    assert [shown.push(token)[0] for token in (ord("a"), IM_START, 258, 257)] == [
        "a", "<|im_start|>", "<|im_start|>", "",
    ]  # fmt: skip
