"""GPTQ: errors that make up for each other on the inputs that matrices really get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearth_backends.base import LoadedModel
from hearth_backends.errors import Unsupported
from hearth_backends.quantizing.checkpoint import write_quantized
from hearth_backends.quantizing.gptq import DAMPING, factor, gptq_groups
from hearth_backends.quantizing.plan import Target
from hearth_backends.quantizing.rounding import F32, Grouped, int4_groups
from hearth_backends.registry import backend, open_model
from hearth_backends.weights.checkpoint import Checkpoint
from hearth_backends.weights.opening import open_reader

MakeGguf = Callable[..., Path]


def numbers(found: Grouped, group: int) -> F32:
    zeros = np.full(found.scales.shape, 8) if found.zeros is None else found.zeros
    blocks = found.integers.reshape(len(found.integers), -1, group).astype(np.float32)
    values: F32 = (blocks - zeros[:, :, None]) * found.scales[:, :, None]
    return values.reshape(found.integers.shape)


def correlated(n: int, n_in: int, seed: int) -> F32:
    """Inputs as layers have them: some directions carry most."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(n_in, n_in)) * np.logspace(0, -2, n_in)[:, None]
    return (random.normal(size=(n, n_in)) @ mixing).astype(np.float32)


@given(n=st.integers(1, 300), n_in=st.sampled_from([1, 7, 64, 65, 130]), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_the_factor_is_that_of_the_inverse(n: int, n_in: int, seed: int) -> None:
    inputs = correlated(n, n_in, seed)
    upper = factor(inputs)
    assert np.array_equal(upper, np.triu(upper))
    covariance = inputs.astype(np.float64).T @ inputs.astype(np.float64)
    covariance += np.eye(n_in) * max(DAMPING * np.trace(covariance) / n_in, 1e-6)
    assert np.allclose(upper.T @ upper @ covariance, np.eye(n_in), atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_product_is_nearer_than_with_each_number_rounded_to_the_nearest(
    symmetric: bool,
) -> None:
    inputs = correlated(600, 128, 1)
    matrix = np.random.default_rng(2).normal(size=(48, 128)).astype(np.float32)
    seen, others = inputs[:300], inputs[300:]
    made = numbers(gptq_groups(matrix, 32, factor(seen), symmetric=symmetric), 32)
    near = numbers(int4_groups(matrix, 32, symmetric=symmetric), 32)
    for x in (seen, others):
        exact = x @ matrix.T
        errors = [float(((x @ found.T - exact) ** 2).mean()) for found in (made, near)]
        assert errors[0] < 0.7 * errors[1]


def test_one_direction_that_drowns_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hearth_backends.quantizing.gptq._EXACT_INPUTS", 0)
    inputs = np.random.default_rng(0).normal(size=(4, 96)).astype(np.float32)
    inputs[:, 3] *= 1e9
    upper = factor(inputs)
    assert np.isfinite(upper).all()
    assert (np.diagonal(upper) > 0).all()


def test_inputs_that_never_came_do_no_harm() -> None:
    matrix = np.random.default_rng(2).normal(size=(8, 64)).astype(np.float32)
    made = numbers(
        gptq_groups(matrix, 32, factor(np.zeros((3, 64), np.float32)), symmetric=True), 32
    )
    assert np.allclose(made, numbers(int4_groups(matrix, 32, symmetric=True), 32))


def seen_by(model: LoadedModel, n: int = 64) -> list[dict[str, F32]]:
    tokens = [int(t) for t in np.random.default_rng(0).integers(3, model.spec.n_vocab - 3, n)]
    looked = backend("onnx").layer_inputs(model.spec, [tokens[:40], tokens[40:]], 1)
    return [dict(layer) for layer in looked]


@pytest.mark.parametrize(
    "fields",
    [
        {"head_dim": 12, "d_ff": 96},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"architecture": "phi3"}, marks=pytest.mark.slow),
    ],
)
def test_checkpoints_of_any_model(
    fields: dict[str, object], make_gguf: MakeGguf, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    model = open_model(str(make_gguf(**fields)))
    layers = seen_by(model)
    for layer, seen in enumerate(layers):
        for name, inputs in seen.items():
            if name in model.spec.tensors:
                assert inputs.shape == (64, model.spec.tensors[name].shape[1]), (layer, name)
    outs = [tmp_path / "gptq", tmp_path / "nearest"]
    for out, looked in zip(outs, (layers, None), strict=True):
        write_quantized(model, Target("int4", group=32), out, lambda _part: None, layers=looked)
    original = open_reader(model.spec)
    name = next(n for n in Checkpoint(outs[0]).spec.tensors if n.endswith("0.mlp.down_proj.weight"))
    x = layers[0][name]
    exact = x @ original.tensor(name).T
    errors = [float(((x @ Checkpoint(out).tensor(name).T - exact) ** 2).mean()) for out in outs]
    assert errors[0] < errors[1]


def test_who_does_not_look_into_layers_says_so(make_gguf: MakeGguf) -> None:
    pytest.importorskip("llama_cpp")
    model = open_model(str(make_gguf()))
    with pytest.raises(Unsupported, match="backend gguf does not let anybody look into its layers"):
        backend("gguf").layer_inputs(model.spec, [[1]], 1)
