"""The GPU benchmark: verdicts, what counts as read, and a rehearsal of its parts on the processor."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
import torch

import gpu
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels.reference import ReferenceKernels
from hearth_bench.gpu_figures import Figure, as_json, table
from hearth_bench.gpu_model import KINDS, Maker, kv_bytes, row_operations, streamed_bytes
from hearth_bench.shapes import SHAPES


@pytest.mark.parametrize(
    ("value", "verdict"), [(71.9, "MISSED"), (72.0, "met"), (87.9, "met"), (88.0, "aim met")]
)
def test_what_was_wanted_is_judged(value: float, verdict: str) -> None:
    figure = Figure("decode", value, "%", 72, 88, {"ms": 4.0})
    assert figure.verdict == verdict
    assert f"| decode | {value:.4g} % | 72 % | 88 % | {verdict} | ms 4 |" in table([figure])
    assert as_json([figure], {})["figures"][0]["verdict"] == verdict


def test_nothing_is_judged_where_nothing_was_wanted() -> None:
    assert Figure("copy", 1.0, "GB/s").verdict == ""


def test_llama_reads_15_gigabytes_a_step_and_128_kilobytes_a_token() -> None:
    llama = SHAPES["llama-3.1-8b"]
    assert kv_bytes(llama, torch.bfloat16) == 131_072
    matrices = (
        row_operations(llama) + 2 * llama.n_vocab * llama.d_model
    )  # two operations, two bytes
    assert matrices == pytest.approx(15.01e9, rel=0.001)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_of_embeddings_is_not_read(kind: str) -> None:
    shape = gpu.TINY
    maker = Maker(shape, Accelerator("cpu:0"), torch.float32, ReferenceKernels())
    weights = maker.weights(kind, 64)
    assert weights.n_bytes - streamed_bytes(weights, shape) == 4 * shape.n_vocab * shape.d_model


@pytest.mark.slow
def test_a_rehearsal_gives_every_figure_that_is_wanted() -> None:
    run = gpu.Run(gpu.TINY, "cpu:0", gpu.DRY)
    with torch.inference_mode():
        figures = [f for part in (run.correct, run.decode, run.quantized) for f in part()]
    names = [f.name for f in figures]
    assert len(set(names)) == len(names)
    wanted = {f.name for f in figures if f.must is not None}
    assert wanted == {
        "decode, batch 1", "prefill of 64 tokens, of the matmul rate", "graphs over eager, batch 1",
        "fp8 over float32, batch 1", "int4 over float32, batch 1",
    }  # fmt: skip
    assert all(f.value > 0 for f in figures if f.must is not None)
