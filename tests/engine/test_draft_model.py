"""A draft model: the same tokens with it as without, in every layout, whatever goes wrong with it."""

from __future__ import annotations

import pytest
from eager_drafter import EagerDrafter
from engine_rig import Rig
from sim_oracle import expected

from hearthd import wire

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
