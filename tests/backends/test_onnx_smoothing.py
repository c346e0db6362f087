"""Smoothing: the same function in exact numbers, and outliers that no longer spoil the rounding of others."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gguf_runner import Rows
from onnx_runner import canary, onnx_runner

pytest.importorskip("onnxruntime")

from outlier_models import COLUMNS, write_with_outliers

from hearth_backends.base import F32, LoadedModel
from hearth_backends.onnx import packing
from hearth_backends.onnx.observing import find_smoothing
from hearth_backends.onnx.smoothing import OUTLIER, Scaled, factors
from hearth_backends.registry import open_model
from hearth_backends.weights.opening import open_reader
from hearth_backends.weights.recipe import layer_recipe

TEXT = b"<|im_start|>user\nolive = 4821, the hearth is warm: 1 2 3. Count on: 37 38 39<|im_end|>\n"


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return open_model(str(write_with_outliers(tmp_path_factory.mktemp("hard") / "model", canary())))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEARTH_CACHE", str(tmp_path))
    return tmp_path / "onnx"


def distributions(model: LoadedModel, kind: str) -> F32:
    with closing(onnx_runner(model, kind)) as runner:
        text = list(TEXT)
        chunks = [text[:50], *([token] for token in text[50:])]
        return np.concatenate([runner.step(Rows(0, chunk, len(chunk))) for chunk in chunks])


def divergence(exact: F32, found: F32) -> float:
    return float((np.exp(exact) * (exact - found)).sum(axis=1).mean())


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("int8", 20.0),
        pytest.param("int8-32", 10.0, marks=pytest.mark.slow),
        pytest.param("int4-32", 1.7, marks=pytest.mark.slow),
        pytest.param("int4-128", 1.7, marks=pytest.mark.slow),
    ],
)
def test_planted_outliers_cost_less_by_a_factor(
    kind: str, least: float, hard: LoadedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = distributions(hard, "fp32")
    assert divergence(distributions(canary(), "fp32"), exact) < 1e-6
    smoothed = divergence(exact, distributions(hard, kind))
    for path in cache.iterdir():
        path.unlink()
    monkeypatch.setattr("hearth_backends.onnx.smoothing.OUTLIER", np.inf)
    assert divergence(exact, distributions(hard, kind)) > least * smoothed


def test_models_without_outliers_are_left_alone_unless_it_is_asked_for(
    hard: LoadedModel, cache: Path
) -> None:
    def found(model: LoadedModel, *, always: bool) -> str:
        reader = open_reader(model.spec)
        return find_smoothing(reader, cache, 1, lambda _part: None, always=always).digest

    assert found(canary(), always=False) == ""
    assert found(canary(), always=True) != ""
    assert found(hard, always=False) != ""
    assert len(list(cache.glob("*.smooth"))) == 3
    assert found(hard, always=False) == found(hard, always=False)


def test_what_was_smoothed_is_packed_into_a_file_of_its_own(
    hard: LoadedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "SMALL_BYTES", 0)
    distributions(hard, "int8")
    assert len(list(cache.glob("*.weights"))) == 1
    for path in cache.glob("*.smooth"):
        path.unlink()
    monkeypatch.setattr("hearth_backends.onnx.smoothing.OUTLIER", np.inf)
    distributions(hard, "int8")
    assert len(list(cache.glob("*.weights"))) == 2


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_nothing_changes_in_exact_numbers(offset: float, hard: LoadedModel) -> None:
    reader = open_reader(hard.spec)
    recipe = layer_recipe(hard.spec, 1)
    by = np.random.default_rng(0).uniform(0.1, 9, hard.spec.d_model).astype(np.float32)
    x = np.random.default_rng(1).normal(size=hard.spec.d_model).astype(np.float32)
    norm = Scaled.of(recipe.mlp_norm, outputs=by, offset=offset)
    up = Scaled.of(recipe.up, inputs=by)
    plain = recipe.up.read(reader) @ (x * (recipe.mlp_norm.read(reader) + offset))
    found = up.read(reader) @ (x * (norm.read(reader) + offset))
    assert np.abs(found - plain).max() < 1e-5 * np.abs(plain).max()
    assert np.array_equal(np.concatenate(list(up.chunks(reader))), up.read(reader))
    rows = Scaled.of(recipe.up, outputs=np.full(hard.spec.d_ff, 2, np.float32))
    assert np.array_equal(rows.read(reader), recipe.up.read(reader) / 2)
    assert Scaled.of(recipe.up) is recipe.up


def test_factors() -> None:
    activations, weights = np.ones(50, np.float32), np.full(50, 2, np.float32)
    assert (factors(activations, weights, always=False) == 1).all()
    activations[list(COLUMNS[:1])] = OUTLIER * 5
    activations[9] = 0
    found = factors(activations, weights, always=False)
    assert found[COLUMNS[0]] / found[0] == pytest.approx((OUTLIER * 5) ** 0.5)
    assert found[9] == 1
    assert np.isfinite(factors(np.zeros(4, np.float32), np.zeros(4, np.float32), always=True)).all()
