"""Comparing: divergence counted right, texts cut right, and a table of a real model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hearth_backends.errors import BackendError
from hearth_backends.registry import open_model
from hearthd.engine.quantizing.comparison import joined, judge, perplexity
from hearthd.engine.quantizing.reading import N_TEXTS, TEXT_TOKENS, cut
from hearthd.engine.quantizing.table import Place, Way, compare


def logs(*rows: list[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.log(np.array(rows, np.float32))


def test_divergence_best_tokens_and_surprise() -> None:
    exact = logs([0.5, 0.25, 0.25], [0.1, 0.8, 0.1])
    other = logs([0.25, 0.5, 0.25], [0.1, 0.8, 0.1])
    found = judge(exact, other, np.array([0, -1], np.int32))
    assert found.kl == pytest.approx([0.5 * math.log(2) + 0.25 * math.log(0.5), 0.0], abs=1e-6)
    assert found.same_best.tolist() == [False, True]
    assert perplexity(found.surprise) == pytest.approx(4.0)
    assert len(joined([found, found]).kl) == 4


def test_tokens_that_the_original_rules_out_add_nothing() -> None:
    exact, other = np.array([[0.0, -np.inf]], np.float32), logs([0.5, 0.5])
    assert judge(exact, other, np.array([0], np.int32)).kl == pytest.approx([math.log(2)])


def test_texts_are_of_one_length_and_from_all_over() -> None:
    texts = cut(range(1000), bos=None)
    assert [len(text) for text in texts] == [TEXT_TOKENS] * N_TEXTS
    assert texts[0][0] == 0
    assert texts[-1][-1] == 999
    begun = cut(range(40), bos=7)
    assert [text[0] for text in begun] == [7] * N_TEXTS
    assert all(len(text) == 11 for text in begun)
    with pytest.raises(BackendError, match="a text of 5 tokens is too short"):
        cut(range(5), bos=None)


def test_a_table_of_the_canary() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("llama_cpp")
    path = "builtin:canary"
    ways = [Way("same", path, "onnx", "fp32"), Way("gguf", path, "gguf"), Way("8", path, "onnx", "int8-32"),
            Way("4", path, "onnx", "int4-128"), Way("none", path, "onnx", "int3")]  # fmt: skip
    told: list[tuple[str, float]] = []
    text = "The hearth is warm, 1 2 3. " * 12
    table = compare(
        open_model(path), Way("exact", path, "onnx", "fp32"), ways, text, Place("cpu:0", 1),
        lambda doing, part: told.append((doing, part)),
    )  # fmt: skip
    same, gguf, eight, four = table.rows
    assert same.mean_kl < 1e-9
    assert same.same_best == 1.0
    assert same.perplexity == pytest.approx(table.perplexity)
    assert gguf.mean_kl < 1e-4
    assert eight.mean_kl < 0.05
    assert eight.mean_kl < four.mean_kl < 2.0
    assert four.p99_kl > four.mean_kl
    assert four.mean_kl == pytest.approx((four.prompt_kl + four.decode_kl) / 2, rel=0.1)
    (refused,) = table.refused
    assert "knows no weights of the kind 'int3'" in refused.reason
    assert told[0][0] == "exact"
    assert told[-1] == ("4", 1.0)
