"""Where a grammar leaves one way to go on, that way is guessed, and the guess stands."""

from __future__ import annotations

import pytest
import sim_oracle
from engine_rig import Rig

from hearth_backends.base import SamplingParams
from hearth_backends.kv.contract import Reservation
from hearth_backends.kv.hashing import HashChain
from hearth_backends.sim.tokenizer import ByteTokenizer
from hearthd import wire
from hearthd.engine.drafting.gate import DraftGate
from hearthd.engine.grammar import GrammarFactory
from hearthd.engine.request import Limits, Request
from hearthd.engine.step import StepPlan

NOTHING_RESERVED = Reservation((), (), ())


def request(number: int, tokens: list[int]) -> Request:
    return Request(
        id=number,
        tokens=list(tokens),
        n_prompt=len(tokens),
        params=SamplingParams(),
        limits=Limits(max_output=10_000),
        chain=HashChain("d"),
    )


def cheap_gate() -> DraftGate:
    """A gate that has seen that rows cost nothing: every guess that is likely pays."""
    gate = DraftGate()
    for n_rows in range(1, 20):
        gate.costs.observe(n_rows, 0.010)
    return gate


def test_what_a_grammar_forces_is_guessed_and_teaches_nothing() -> None:
    gate = cheap_gate()
    forced = request(1, [1, 2, 3])
    factory = GrammarFactory(ByteTokenizer(300, add_bos=False))
    forced.grammar = factory.compile(wire.RegexConstraint("[ab]forced[cd]"))
    assert gate.propose([forced], [50], 50) == [[]]
    assert forced.grammar.accept(ord("a"))
    assert gate.propose([forced], [50], 50) == [list(b"forced")]
    assert gate.propose([forced], [3], 50) == [list(b"for")]
    plan = StepPlan([forced], [3], [4], [3], [True], [0], NOTHING_RESERVED, 4, False)
    gate.observe(plan, [4], 0.010)
    assert gate.counters.accepted["grammar"] == 3
    assert gate.propose([forced], [0], 50) == [[]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_forced_call_takes_fewer_steps(temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {"measurement": {"type": "boolean"}, "confirmation": {"type": "boolean"}},
        "required": ["measurement", "confirmation"],
        "additionalProperties": False,
    }
    constraint = wire.ToolConstraint([wire.Tool("take_measurement", schema)], parallel=False)
    sampling = wire.Sampling(temperature=temperature, seed=3)
    prompt = tuple(b"measure it")
    output = sim_oracle.expected_under("sim:", prompt, sampling, constraint, max_tokens=200)
    with Rig("sim:", drafter=cheap_gate()) as rig:
        said = rig.answer(prompt, sampling, constraint=constraint, max_tokens=200)
        assert said.output == output
        assert said.finish == "stop"
        assert rig.n_steps < 0.6 * len(output)
