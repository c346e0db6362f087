"""The sampler on a device: tokens and log-probabilities are those of the written definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearth_backends.base import Sampled, SamplingBatch, SamplingParams
from hearth_backends.sampling import noise_key, sample

pytest.importorskip("torch")
import torch

from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels import kernels_for
from hearth_backends.cuda.sampler import Sampler, noise_keys

N_VOCAB = 77
CPU = Accelerator("cpu:0")
SAMPLER = Sampler(CPU, kernels_for(CPU.torch))
PLAIN = SamplingParams(seed=11)
TOKENS = st.integers(0, N_VOCAB - 1)


def draw(logits: np.ndarray, batch: SamplingBatch) -> Sampled:
    """What the device makes of it; it also leaves each token in its place."""
    last = torch.zeros(len(batch) + 1, dtype=torch.int32)
    places = np.arange(1, len(batch) + 1, dtype=np.int32)
    sampled = SAMPLER.draw(torch.from_numpy(logits.copy()), batch, last, places).sampled()
    assert last[1:].tolist() == sampled.tokens.tolist()
    return sampled


def batch_of(*params: SamplingParams, **fields: Any) -> SamplingBatch:
    k = len(params)
    batch = SamplingBatch(
        params, np.arange(k, dtype=np.int64) * 3, np.full(k, -1, np.int32), (None,) * k, (0,) * k, ((),) * k
    )  # fmt: skip
    return replace(batch, **fields)


@st.composite
def situations(draw: st.DrawFn) -> tuple[np.ndarray, SamplingBatch]:
    """Rows of logits with many equal ones, and everything a request may ask of its row."""
    k = draw(st.integers(1, 4))
    params = [
        SamplingParams(
            temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 2.5])),
            top_k=draw(st.sampled_from([0, 1, 5, 1000])),
            top_p=draw(st.sampled_from([1.0, 0.9, 0.2])),
            min_p=draw(st.sampled_from([0.0, 0.05])),
            repetition_penalty=draw(st.sampled_from([1.0, 1.5])),
            presence_penalty=draw(st.sampled_from([0.0, 0.5])),
            frequency_penalty=draw(st.sampled_from([0.0, 0.25])),
            logit_bias=tuple(draw(st.dictionaries(TOKENS, st.floats(-5, 5, width=32), max_size=2)).items()),
            seed=draw(st.integers(0, 2**64 - 1)),
            n_logprobs=draw(st.sampled_from([None, 0, 3])),
        )
        for _ in range(k)
    ]  # fmt: skip
    seed = draw(st.integers(0, 1000))
    random = np.random.default_rng(seed)
    logits = random.integers(-12, 12, (k, N_VOCAB)).astype(np.float32) / 2
    mask = None
    if draw(st.booleans()):
        mask = random.integers(0, 2**32, (k, -(-N_VOCAB // 32)), dtype=np.uint32)
        mask[0] = 0xFFFFFFFF
    return logits, batch_of(
        *params,
        targets=np.array([draw(st.sampled_from([-1, -1, 5])) for _ in range(k)], np.int32),
        history=tuple(draw(st.lists(TOKENS, max_size=9)) if p.penalises else None for p in params),
        n_prompt=tuple(draw(st.integers(0, 4)) for _ in range(k)),
        banned=tuple(tuple(draw(st.lists(TOKENS, max_size=2))) for _ in range(k)),
        mask=mask,
    )


@settings(max_examples=80, deadline=None)
@given(situations())
def test_it_samples_by_the_written_definition(situation: tuple[np.ndarray, SamplingBatch]) -> None:
    logits, batch = situation
    expected, found = sample(logits, batch), draw(logits, batch)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert (found.logprobs is None) == (expected.logprobs is None)
    if found.logprobs is None or expected.logprobs is None:
        return
    assert np.allclose(found.logprobs, expected.logprobs, atol=1e-5, equal_nan=True)
    assert len(found.top) == len(expected.top)
    for ours, theirs in zip(found.top, expected.top, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert ours.tokens.tolist() == theirs.tokens.tolist()
            assert np.allclose(ours.logprobs, theirs.logprobs, atol=1e-5)


def test_where_nothing_may_come_there_is_no_token() -> None:
    logits = np.zeros((3, N_VOCAB), np.float32)
    logits[1] = np.nan
    nothing = np.zeros((3, 3), np.uint32)
    nothing[1:] = 0xFFFFFFFF
    for params in (PLAIN, replace(PLAIN, temperature=0.0)):
        batch = batch_of(
            params, params, params, mask=nothing, banned=((), (), tuple(range(N_VOCAB)))
        )
        assert draw(logits, batch).tokens.tolist() == sample(logits, batch).tokens.tolist()
        assert draw(logits, batch).tokens.tolist()[:2] == [-1, -1]


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_keys_of_the_noise(seed: int, position: int) -> None:
    (found,) = noise_keys([seed], np.array([position])).view(np.uint32).tolist()
    assert found == [int(half) for half in noise_key(seed, position)]
