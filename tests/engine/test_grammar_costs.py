"""Grammars that cost too much: refused before they are made, or given up, and nobody else hears of it."""

from __future__ import annotations

import time
from typing import Any, NoReturn

import pytest
from engine_rig import Rig
from hypothesis import given
from hypothesis import strategies as st

from hearthd import wire
from hearthd.engine.grammar import GrammarFactory, GrammarRefused
from hearthd.engine.mask_budget import DEBT_MASKS, SLOW_MASKS, MaskBudget

LETTERS = wire.RegexConstraint("[a-z]{40}")


def test_one_dear_mask_is_nothing_and_many_are_too_much() -> None:
    budget = MaskBudget(0.01)
    budget.spend(1.0)
    assert not budget.is_overdrawn
    for _ in range(SLOW_MASKS - 1):
        assert not budget.is_overdrawn
        budget.spend(0.2)
    assert budget.is_overdrawn


@given(st.lists(st.floats(0.0, 0.01), max_size=50), st.floats(0.0, 0.1))
def test_whoever_keeps_to_what_is_allowed_is_never_cut_off(cheap: list[float], dear: float) -> None:
    budget = MaskBudget(0.01)
    for seconds in [dear, *cheap]:
        budget.spend(seconds)
        assert not budget.is_overdrawn
    assert DEBT_MASKS * 0.01 >= 0.1


def test_a_grammar_that_costs_too_much_ends_alone() -> None:
    with Rig("sim:layers=2") as rig:
        alone = rig.answer("others", max_tokens=30, ignore_eos=True).text
        fast = rig.submit("held to letters", max_tokens=60, constraint=LETTERS)
        rig.intake.grammars = GrammarFactory(rig.model.tokenizer, mask_seconds=1e-9)
        slow = rig.submit("held to letters", max_tokens=60, constraint=LETTERS)
        other = rig.submit("others", max_tokens=30, ignore_eos=True)
        answers = rig.run()
        code, message = answers[slow].error or ("", "")
        assert (answers[slow].finish, code) == ("error", "grammar_too_slow")
        assert "grammar_ms" in message
        assert 1 <= len(answers[slow].text) < 40
        assert (answers[fast].finish, len(answers[fast].text)) == ("stop", 40)
        assert answers[other].text == alone
        rig.assert_nothing_leaked()


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(4000)}},
        {"type": "array", "prefixItems": [{"type": "integer"}] * 4000 + [{"const": i} for i in range(4000)]},
        {"anyOf": [{"const": i} for i in range(4000)]},
    ],
)  # fmt: skip
def test_a_schema_that_is_too_wide_is_refused_at_once(schema: dict[str, Any]) -> None:
    with Rig("sim:layers=2") as rig:
        began = time.monotonic()
        with pytest.raises(GrammarRefused, match="more than 3000 schemas inside") as refused:
            rig.intake.grammars.compile(wire.JsonConstraint(schema))
        assert refused.value.code == "invalid_value"
        assert time.monotonic() - began < 5


class PanicException(BaseException):
    """What a compiler written in Rust raises in Python where it breaks; no Exception."""


class Breaking(GrammarFactory):
    """A compiler that breaks in a way of its own."""

    def __init__(self, *arguments: Any, error: BaseException) -> None:
        super().__init__(*arguments)
        self._error = error

    def _make(self, constraint: wire.Constraint) -> NoReturn:
        raise self._error


@pytest.mark.parametrize(
    "error", [PanicException("index out of bounds"), ValueError("no"), RecursionError()]
)
def test_a_compiler_that_breaks_is_a_refusal(error: BaseException) -> None:
    with Rig("sim:layers=2") as rig:
        factory = Breaking(rig.model.tokenizer, error=error)
        with pytest.raises(GrammarRefused, match="cannot be compiled") as refused:
            factory.compile(LETTERS)
        assert (refused.value.code, refused.value.param) == ("invalid_value", "guided_regex")
        with pytest.raises(KeyboardInterrupt):
            Breaking(rig.model.tokenizer, error=KeyboardInterrupt()).compile(LETTERS)
