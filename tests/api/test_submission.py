"""Submissions: seeds of choices, and the corners of parameters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearthd import wire
from hearthd.api.schema import CompletionRequest
from hearthd.api.submission import Submissions, derive_seed


def _frame(choice: int = 0, **fields: Any) -> wire.Submit:
    asked = msgspec.convert({"model": "m", "prompt": "x", **fields}, CompletionRequest)
    submissions = Submissions(asked, max_tokens=None, n_logprobs=None, arrived_seconds=1.0)
    return submissions.frame(choice, text="x")


@given(st.integers())
def test_any_integer_is_a_seed_that_frames_can_carry(seed: int) -> None:
    frames = [_frame(choice, seed=seed) for choice in range(4)]
    seeds = [frame.sampling.seed for frame in frames]
    assert all(0 <= derived < 2**64 for derived in seeds)
    assert len(set(seeds)) == 4
    assert seeds[0] == seed % 2**64
    assert wire.encode(frames[0])


def test_seeds_of_neighbours_do_not_meet() -> None:
    seen = {derive_seed(seed, choice) for seed in range(128) for choice in range(128)}
    assert len(seen) == 128 * 128


def test_top_p_of_zero_keeps_the_best_alone() -> None:
    sampling = _frame(top_p=0).sampling
    assert (sampling.top_k, sampling.top_p) == (1, 1.0)


@pytest.mark.parametrize("top_k", [-1, 0, None])
def test_top_k_is_off(top_k: int | None) -> None:
    assert _frame(top_k=top_k).sampling.top_k == 0


def test_defaults_are_openais() -> None:
    frame = _frame()
    assert msgspec.structs.replace(frame.sampling, seed=0) == wire.Sampling()
    assert frame.sampling.temperature == 1.0
    assert frame.sampling.seed != _frame().sampling.seed
