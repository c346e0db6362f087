"""Sampling against a slow reading of its definition, its statistics, and what it may not depend on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hearth_backends import sampling
from hearth_backends.base import F32, Sampled, SamplingBatch, SamplingParams
from hearth_backends.sampling import NO_TOKEN, sample

GREEDY = SamplingParams(temperature=0.0)


def batch_of(
    params: Sequence[SamplingParams],
    *,
    positions: Sequence[int] | None = None,
    targets: Sequence[int] | None = None,
    history: Sequence[list[int] | None] | None = None,
    n_prompt: Sequence[int] | None = None,
    banned: Sequence[tuple[int, ...]] | None = None,
    mask: NDArray[np.uint32] | None = None,
) -> SamplingBatch:
    k = len(params)
    return SamplingBatch(
        params=tuple(params),
        positions=np.array(positions or range(k), np.int64),
        targets=np.array(targets or [-1] * k, np.int32),
        history=tuple(history or [None] * k),
        n_prompt=tuple(n_prompt or [0] * k),
        banned=tuple(banned or [()] * k),
        mask=mask,
    )


def rows(*values: Sequence[float]) -> F32:
    return np.array(values, np.float32)


def draws(logits: Sequence[float], params: SamplingParams, n: int, **more: Any) -> NDArray[Any]:
    """How often each token came in n positions."""
    many = np.broadcast_to(np.array(logits, np.float32), (n, len(logits)))
    tokens = sample(many, batch_of([params] * n, **more)).tokens
    return np.bincount(tokens, minlength=len(logits))


# --- the definition, read slowly ---------------------------------------------------------------


def slow_noise(seed: int, position: int, token: int) -> float:
    def mix64(x: int) -> int:
        x &= 2**64 - 1
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    def mix32(x: int, addend: int) -> int:
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = ((x ^ x >> 15) + addend) * 0x846CA68B % 2**32
        return x ^ x >> 16

    golden = 0x9E3779B97F4A7C15
    key = mix64(mix64(seed + golden) ^ (position * golden % 2**64))
    h = mix32(mix32(token + 1, 0) ^ (key & 0xFFFFFFFF), key >> 32)
    v = min(np.float32(h) * np.float32(2**-32) + np.float32(2**-33), np.float32(1 - 2**-24))
    return -math.log1p(-float(v))


def slow_survivors(logits: Sequence[float], params: SamplingParams) -> dict[int, float]:
    """Tokens that pass all filters, and their z."""
    top = max(logits)
    z = {t: (x - top) / params.temperature for t, x in enumerate(logits) if x > -math.inf}
    z = {t: x for t, x in z.items() if x >= math.log(1e-6)}
    if params.top_k > 0:
        threshold = sorted(z.values(), reverse=True)[: params.top_k][-1]
        z = {t: x for t, x in z.items() if x >= threshold}
    if params.top_p < 1:
        total = sum(math.exp(x) for x in z.values())
        for threshold in sorted(set(z.values()), reverse=True):
            head = {t: x for t, x in z.items() if x >= threshold}
            if sum(math.exp(x) for x in head.values()) >= params.top_p * total:
                z = head
                break
    if params.min_p > 0:
        z = {t: x for t, x in z.items() if x >= math.log(params.min_p)}
    return z


def slow_sample(logits: Sequence[float], params: SamplingParams, position: int) -> int:
    if params.temperature == 0:
        return max(range(len(logits)), key=lambda t: (logits[t], -t))
    z = slow_survivors(logits, params)
    return max(z, key=lambda t: (z[t] - math.log(slow_noise(params.seed, position, t)), -t))


some_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.0, 2.5]),
    top_k=st.sampled_from([0, 0, 1, 3, 50]),
    top_p=st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.0]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 0.5]),
    seed=st.integers(0, 2**64 - 1),
)
some_logits = st.lists(st.integers(-24, 24).map(lambda n: n / 4), min_size=1, max_size=40)


@settings(max_examples=400, deadline=None)
@given(logits=some_logits, params=some_params, position=st.integers(0, 1 << 40))
def test_equals_the_slow_reading(
    logits: list[float], params: SamplingParams, position: int
) -> None:
    (token,) = sample(rows(logits), batch_of([params], positions=[position])).tokens
    assert token == slow_sample(logits, params, position)


@pytest.mark.parametrize("spread", [0.02, 1.0, 3.0, 6.0])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7),
        SamplingParams(top_k=40),
        SamplingParams(top_p=0.9),
        SamplingParams(min_p=0.01),
        SamplingParams(top_k=5000, top_p=0.7, min_p=0.001, temperature=1.5),
    ],
)
def test_short_cuts_for_large_vocabularies_change_nothing(
    spread: float, params: SamplingParams
) -> None:
    rng = np.random.default_rng(5)
    logits = (rng.normal(size=(6, 30_000)) * spread).astype(np.float32)
    batch = batch_of([replace(params, seed=s) for s in range(6)])
    tokens = sample(logits, batch).tokens
    for row, p, position, token in zip(logits, batch.params, range(6), tokens, strict=True):
        z = (row - row.max()) / np.float32(p.temperature)
        z[row < np.float32(float(row.max()) + p.temperature * math.log(1e-6))] = -np.inf
        if p.top_k:
            z[z < np.sort(z)[-p.top_k]] = -np.inf
        if p.top_p < 1:
            order = np.sort(z)[::-1]
            held = np.exp(order).astype(np.float64).cumsum()
            z[z < order[np.searchsorted(held, p.top_p * held[-1])]] = -np.inf
        if p.min_p:
            z[z < np.float32(math.log(p.min_p))] = -np.inf
        hashes = sampling.noise(np.arange(z.size), sampling.noise_key(p.seed, position))
        assert token == (z - np.log(sampling.exponentials(hashes))).argmax()


def test_the_crowd_finds_a_top_token_that_stands_alone() -> None:
    logits = np.zeros((1, 40_000), np.float32)
    logits[0, 39_000] = 8.0  # nobody else is near, everybody passes the floor
    counts = [
        int(sample(logits, batch_of([SamplingParams(seed=s)])).tokens[0] == 39_000)
        for s in range(300)
    ]
    expected = math.exp(8) / (math.exp(8) + 39_999)
    assert abs(sum(counts) / 300 - expected) < 4 * math.sqrt(expected * (1 - expected) / 300)


# --- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("across", ["positions", "seeds"])
def test_frequencies_are_the_softmax(temperature: float, across: str) -> None:
    n = 20_000
    logits = np.log(np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.009, 0.001]), dtype=np.float32)
    params = [SamplingParams(temperature=temperature, seed=3)] * n
    positions = list(range(n))
    if across == "seeds":
        params = [SamplingParams(temperature=temperature, seed=s) for s in range(n)]
        positions = [12] * n
    many = np.broadcast_to(logits, (n, 7))
    counts = np.bincount(sample(many, batch_of(params, positions=positions)).tokens, minlength=7)
    p = np.exp(logits.astype(np.float64) / temperature)
    expected = n * p / p.sum()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 22.46  # 0.1 % of 6 degrees of freedom


def test_neighbouring_positions_are_independent() -> None:
    n = 20_000
    many = np.zeros((n, 4), np.float32)
    tokens = sample(many, batch_of([SamplingParams(seed=11)] * n)).tokens
    pairs = np.bincount(tokens[:-1] * 4 + tokens[1:], minlength=16)
    expected = (n - 1) / 16
    assert ((pairs - expected) ** 2 / expected).sum() < 37.7  # 0.1 % of 15 degrees of freedom


def test_rare_tokens_come_as_often_as_they_should() -> None:
    n = 15_000
    logits = np.full(2_000, math.log(1e-5), np.float32)  # together about 2 %
    logits[0] = 0.0
    counts = draws(logits.tolist(), SamplingParams(seed=2), n)
    p = 1999e-5 / (1 + 1999e-5)
    assert abs(counts[1:].sum() / n - p) < 4 * math.sqrt(p / n)


def test_noise_is_the_definition() -> None:
    ids = np.array([0, 1, 2, 151_935])
    for seed, position in [(0, 0), (2**64 - 1, 7), (123, 1 << 40)]:
        found = sampling.exponentials(
            sampling.noise(ids, sampling.noise_key(seed, position))
        ).tolist()
        assert found == pytest.approx(
            [slow_noise(seed, position, t) for t in ids.tolist()], rel=2e-6
        )


# --- what it may not depend on -----------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    params=st.lists(some_params, min_size=2, max_size=6),
    n_vocab=st.sampled_from([5, 257, 20_001]),
    seed=st.integers(0, 1000),
)
def test_a_row_does_not_depend_on_its_neighbours(
    params: list[SamplingParams], n_vocab: int, seed: int
) -> None:
    params = [replace(p, n_logprobs=i % 3 if i % 4 else None) for i, p in enumerate(params)]
    logits = np.random.default_rng(seed).normal(size=(len(params), n_vocab)).astype(np.float32)
    together = sample(logits, batch_of(params))
    for i, p in enumerate(params):
        alone = sample(logits[i : i + 1].copy(), batch_of([p], positions=[i]))
        assert alone.tokens[0] == together.tokens[i]
        if p.n_logprobs is not None:
            assert alone.logprobs is not None
            assert together.logprobs is not None
            assert alone.logprobs[0] == together.logprobs[i]
        if p.n_logprobs:
            ours, theirs = alone.top[0], together.top[i]
            assert ours is not None
            assert theirs is not None
            assert (ours.tokens == theirs.tokens).all()
            assert (ours.logprobs == theirs.logprobs).all()


def test_logits_are_left_as_they_are() -> None:
    logits = rows([1, 2, 3], [3, 2, 1])
    params = SamplingParams(logit_bias=((0, 9.0),), repetition_penalty=2.0)
    sample(logits, batch_of([params] * 2, history=[[0, 1]] * 2, banned=[(2,)] * 2))
    assert logits.tolist() == [[1, 2, 3], [3, 2, 1]]


def test_the_draw_depends_on_seed_and_position_only() -> None:
    logits = np.zeros((64, 50), np.float32)
    first = sample(logits, batch_of([SamplingParams(seed=1)] * 64)).tokens
    again = sample(logits, batch_of([SamplingParams(seed=1)] * 64)).tokens
    other = sample(logits, batch_of([SamplingParams(seed=2)] * 64)).tokens
    assert (first == again).all()
    assert (first != other).mean() > 0.8
    assert len(set(first.tolist())) > 20


# --- greedy, ties, filters ---------------------------------------------------------------------


@pytest.mark.parametrize("params", [GREEDY, replace(GREEDY, n_logprobs=0)])
def test_greedy_takes_the_lowest_of_equal_tokens(params: SamplingParams) -> None:
    logits = rows([1, 5, 5, 2], [7, 7, 7, 7])
    assert sample(logits, batch_of([params] * 2)).tokens.tolist() == [1, 0]


def test_equal_logits_stay_or_go_together() -> None:
    logits = [3.0, 3.0, 3.0, 0.0]
    for params in [SamplingParams(top_k=1), SamplingParams(top_p=0.1)]:
        counts = draws(logits, params, 600)
        assert counts[3] == 0
        assert (counts[:3] > 120).all()


def test_nothing_below_the_floor_is_drawn() -> None:
    logits = [0.0] + [-13.9] * 30_000
    assert draws(logits, SamplingParams(), 40)[0] == 40


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(top_k=2), 2),
        (SamplingParams(top_p=0.75), 2),  # 0.5 + 0.25 is just enough
        (SamplingParams(top_p=0.76), 3),
        (SamplingParams(min_p=0.5), 2),
        (SamplingParams(top_k=3, top_p=0.9), 3),  # of what top-k left: 7/8, 6/7
        (SamplingParams(top_k=3, top_p=0.85), 2),
        (SamplingParams(top_k=4, min_p=0.2), 3),
    ],
)
def test_filters_in_order(params: SamplingParams, kept: int) -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])).tolist()
    counts = draws(logits, params, 500)
    assert np.flatnonzero(counts).tolist() == list(range(kept))


# --- adjustments -------------------------------------------------------------------------------


def test_bias_bans_and_mask() -> None:
    logits = rows([0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3])
    params = [
        replace(GREEDY, logit_bias=((0, 3.5),)),
        GREEDY,
        GREEDY,
        replace(GREEDY, logit_bias=((0, 100.0),)),
    ]
    mask = np.array([[0xFFFFFFFF], [0xFFFFFFFF], [0b0011], [0b0110]], np.uint32)
    batch = batch_of(params, banned=[(), (3, 2), (), (2,)], mask=mask)
    assert sample(logits, batch).tokens.tolist() == [0, 1, 1, 1]


def test_a_mask_over_many_words() -> None:
    logits = np.arange(100, dtype=np.float32)[None]
    mask = np.zeros((1, 4), np.uint32)
    mask[0, 2] = 1 << 5
    assert sample(logits, batch_of([GREEDY], mask=mask)).tokens.tolist() == [69]


def test_bans_yield_where_nothing_else_is_left_but_a_mask_does_not() -> None:
    logits = rows([0, 1, 2], [0, 1, 2], [0, 1, 2])
    mask = np.array([[0b010], [0b000], [0b000]], np.uint32)
    params = [GREEDY, GREEDY, SamplingParams()]
    tokens = sample(logits, batch_of(params, banned=[(1,), (), (0,)], mask=mask)).tokens
    assert tokens.tolist() == [1, NO_TOKEN, NO_TOKEN]


@pytest.mark.parametrize("params", [GREEDY, replace(GREEDY, n_logprobs=1), SamplingParams()])
@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_broken_logits_give_no_token(params: SamplingParams, broken: float) -> None:
    logits = np.full((1, 40), broken, np.float32)
    if math.isnan(broken):
        logits[0, :20] = 1.0
    with np.errstate(invalid="ignore"):
        assert sample(logits, batch_of([params])).tokens.tolist() == [NO_TOKEN]


def test_repetition_counts_prompt_and_output_once() -> None:
    params = replace(GREEDY, repetition_penalty=2.0)
    logits = rows([3.0, 1.6, -1.0], [-3.0, -2.0, -3.0])
    batch = batch_of([params] * 2, history=[[0, 0], [1]], n_prompt=[2, 0])
    assert sample(logits, batch).tokens.tolist() == [1, 0]


def test_presence_and_frequency_count_the_output_only() -> None:
    history = [0, 0, 1, 2, 2, 2]
    logits = rows([1.0, 1.5, 2.0, 0.6])
    for params, expected in [
        (replace(GREEDY, presence_penalty=0.9), 2),  # 1.0 0.6 1.1 0.6
        (replace(GREEDY, presence_penalty=1.1), 0),  # 1.0 0.4 0.9 0.6
        (replace(GREEDY, frequency_penalty=0.4), 1),  # 1.0 1.1 0.8 0.6
        (replace(GREEDY, presence_penalty=-0.5, frequency_penalty=0.1), 2),  # 1.0 1.9 2.2 0.6
    ]:
        batch = batch_of([params], history=[history], n_prompt=[2])
        assert sample(logits, batch).tokens.tolist() == [expected], params


# --- scoring -----------------------------------------------------------------------------------


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = rows([1.0, 2.0, 4.0, 2.0])
    params = SamplingParams(
        temperature=0.1, top_k=1, logit_bias=((0, 50.0),), n_logprobs=3, presence_penalty=1.0
    )
    result = sample(logits, batch_of([params], history=[[0]]))
    log_softmax = logits[0] - np.log(np.exp(logits[0].astype(np.float64)).sum())
    assert result.tokens.tolist() == [0]
    assert result.logprobs is not None
    assert result.logprobs[0] == pytest.approx(log_softmax[0], abs=1e-6)
    (top,) = result.top
    assert top is not None
    assert top.tokens.tolist() == [2, 1, 3]
    assert top.logprobs == pytest.approx(log_softmax[[2, 1, 3]], abs=1e-6)


def test_targets_are_scored_and_not_sampled() -> None:
    logits = rows([1.0, 2.0, 4.0], [0.0, 0.0, 0.0])
    params = [SamplingParams(temperature=0.0, n_logprobs=0), GREEDY]
    result = sample(logits, batch_of(params, targets=[1, 2]))
    assert result.tokens.tolist() == [1, 2]
    assert result.logprobs is not None
    assert result.logprobs[0] == pytest.approx(-2 - math.log1p(math.exp(-2) + math.exp(-3)))
    assert math.isnan(result.logprobs[1])
    assert result.top == ()


def test_nobody_asked_for_logprobs() -> None:
    result: Sampled = sample(rows([1, 2], [2, 1]), batch_of([GREEDY, SamplingParams()]))
    assert result.logprobs is None
    assert result.top == ()


def test_best_tokens_of_a_large_vocabulary() -> None:
    logits = np.random.default_rng(3).normal(size=(1, 40_001)).astype(np.float32)
    (top,) = sample(logits, batch_of([replace(GREEDY, n_logprobs=20)])).top
    assert top is not None
    assert top.tokens.tolist() == np.argsort(-logits[0], kind="stable")[:20].tolist()
