"""Layer ranges of the GGUF backend: stages together are the whole model."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from hearth_backends.base import LoadedModel
from hearth_backends.errors import (
    StepError,
    Unsupported,
)

pytest.importorskip("llama_cpp")

from gguf_runner import (
    BACKEND,
    CPU,
    Array,
    MakeGguf,
    Rows,
    Runner,
    cut_specs,
    fork,
    load,
    noise,
    truncate,
    whole_spec,
)

from hearth_backends.gguf.vocab import open_gguf


def scenario(runner: Runner) -> Array:
    """Chunked prefill beside decode, a fork, a rollback: what came out of all of it."""
    a, b = noise(45, 21), noise(20, 22)
    results = [runner.step(Rows(0, a[:30], n_wanted=3), Rows(1, b[:1]))]
    results.append(runner.step(Rows(0, a[30:]), Rows(1, b[1:], n_wanted=2)))
    runner.operate(fork(0, 2, 32))
    results.append(runner.step(Rows(1, [5]), Rows(2, a[32:40], n_wanted=8)))
    runner.operate(truncate(2, 36))
    results.append(runner.step(Rows(2, [8, 9]), Rows(0, [6]), Rows(1, [7])))
    return np.concatenate(results)


def both_ways(model: LoadedModel, *cuts: int, kv_tokens: int = 512) -> tuple[Array, Array]:
    with closing(Runner(model, [whole_spec(model, kv_tokens=kv_tokens)])) as whole:
        expected = scenario(whole)
    with closing(Runner(model, cut_specs(model, *cuts, kv_tokens=kv_tokens))) as cut:
        return expected, scenario(cut)


@pytest.mark.parametrize("cuts", [(1,), (3,), (2, 4)])
def test_a_real_model_in_stages_is_the_same_to_the_bit(
    lily: LoadedModel, cuts: tuple[int, ...], kv_tokens: int
) -> None:
    expected, found = both_ways(lily, *cuts, kv_tokens=kv_tokens)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("quant", ["F32", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "phi3", "gemma3"])
def test_architectures_in_two_stages_are_the_same_to_the_bit(
    make_gguf: MakeGguf, architecture: str, quant: str
) -> None:
    model = open_gguf(str(make_gguf(architecture=architecture, quant=quant)))
    expected, found = both_ways(model, 1)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(("d_model", "tolerance"), [(64, 0), (96, 0.01)])
def test_an_input_that_llama_cpp_scales_is_the_same_but_for_rounding(
    make_gguf: MakeGguf, d_model: int, tolerance: float
) -> None:
    """Gemma 2 multiplies its input by sqrt(d_model), whatever it is: dividing first is exact for 64."""
    model = open_gguf(str(make_gguf(architecture="gemma2", d_model=d_model, window=8)))
    expected, found = both_ways(model, 1)
    assert np.abs(found - expected).max() <= tolerance


@pytest.mark.parametrize("cut", [2, 4, 6])
def test_a_sliding_window_goes_on_where_the_model_was_cut(make_gguf: MakeGguf, cut: int) -> None:
    model = open_gguf(str(make_gguf(architecture="gemma3", n_layers=8, window=8)))
    expected, found = both_ways(model, cut)
    assert np.array_equal(found, expected)


def test_an_untied_head_is_its_own(make_gguf: MakeGguf) -> None:
    for tied in (True, False):
        model = open_gguf(str(make_gguf(architecture="qwen3", tied=tied)))
        assert model.spec.tied_embeddings is tied
        expected, found = both_ways(model, 2)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_rope_factors_are_chosen_by_the_length_of_one_sequence(
    make_gguf: MakeGguf, cuts: tuple[int, ...]
) -> None:
    model = open_gguf(str(make_gguf(architecture="phi3", original_context=256)))
    assert model.spec.rope.scaling == "longrope"
    tokens = noise(30, 31)
    results = []
    for n_ctx, kv_tokens in ((256, 256), (256, 1024), (512, 1024)):
        specs = cut_specs(model, *cuts, n_ctx=n_ctx, kv_tokens=kv_tokens)
        with closing(Runner(model, specs)) as runner:
            results.append(runner.step(Rows(0, tokens)))
    short, short_among_many, long = results
    assert np.abs(short - short_among_many).max() < 1e-4
    assert np.abs(short - long).max() > 0.1


@pytest.mark.parametrize("cuts", [(), (2,)])
def test_the_canary_in_one_stage_and_in_two(cuts: tuple[int, ...], kv_tokens: int) -> None:
    from hearth_backends import canary

    model = open_gguf(str(canary.PATH))
    expected, found = both_ways(model, *cuts, kv_tokens=kv_tokens)
    assert np.array_equal(found, expected)


def test_hidden_states_in_are_hidden_states_of_the_stage_before(tiny: LoadedModel) -> None:
    first, second = cut_specs(tiny, 2)
    with closing(Runner(tiny, [first, second])) as runner:
        groups = [Rows(0, noise(5, 23))]
        stage = runner.stages[0]
        hidden = stage.poll(stage.submit(runner.batch(groups), None))
        assert isinstance(hidden, np.ndarray)
        assert hidden.shape == (5, 64)
        for wrong in (None, hidden[:4], hidden[:, :32]):
            with pytest.raises(StepError, match="hidden states of shape"):
                runner.stages[1].submit(runner.batch(groups), wrong)


def test_a_range_of_an_architecture_that_runs_whole_only(tiny: LoadedModel) -> None:
    strange = replace(tiny.spec, architecture="stablelm")
    with pytest.raises(Unsupported, match="whole only"):
        load(LoadedModel(strange, tiny.tokenizer), cut_specs(tiny, 2)[0])


@pytest.mark.parametrize("architecture", ["bert", "dream"])
def test_models_it_does_not_support(tiny: LoadedModel, architecture: str) -> None:
    support = BACKEND.supports(replace(tiny.spec, architecture=architecture), CPU)
    assert not support.ok
    assert architecture in support.reason


def test_one_pool_and_pools_for_each_compute_the_same(make_gguf: MakeGguf) -> None:
    for architecture in ("llama", "gemma3"):
        model = open_gguf(str(make_gguf(architecture=architecture, window=32)))
        results = []
        for kv_tokens in (512, 1536):
            with closing(Runner(model, [whole_spec(model, kv_tokens=kv_tokens)])) as runner:
                results.append(scenario(runner))
        assert np.abs(results[0] - results[1]).max() < 1e-4
