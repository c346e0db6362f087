"""Loading on the paged backend: what the host holds meanwhile, and what the device held at most."""

from __future__ import annotations

import tracemalloc
from contextlib import closing

import pytest
from gguf_runner import CPU, MakeGguf, whole_spec

from hearth_backends.registry import open_model

pytest.importorskip("torch")
pytest.importorskip("llama_cpp")
import torch
from cuda_runner import paged_whole
from onnx_runner import canary

from hearth_backends.cuda import opening
from hearth_backends.cuda.device import Accelerator
from hearth_backends.weights import matrix


@pytest.mark.parametrize("kind", ["fp32", "int8", "fp8", "int4-128"])
def test_the_host_holds_a_matrix_at_a_time_and_no_second_copy(
    kind: str, make_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy's memory is traced, torch's is not: what lies on the device does not count here."""
    monkeypatch.setattr(matrix, "CHUNK_ELEMENTS", 1 << 12)
    sizes = {"d_model": 256, "d_ff": 768, "head_dim": 64, "n_layers": 6}
    model = open_model(str(make_gguf(architecture="qwen3", **sizes)))
    spec = whole_spec(model, weight_kind=kind, n_ctx=64)
    precision = opening.precision_on(spec, CPU.name)
    largest = 4 * max(t.shape[0] * t.shape[-1] for t in model.spec.tensors.values())
    tracemalloc.start()
    try:
        made = opening.make_runner(
            model.spec, spec, Accelerator(CPU.name), precision, lambda _: None
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    made.close()
    n_parameters = sum(t.shape[0] * t.shape[-1] for t in model.spec.tensors.values())
    assert peak_bytes < 3 * largest < n_parameters


def test_the_peak_that_torch_measured_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a GPU; on the processor nobody measures it."""
    asked = []

    def measured(where: torch.device) -> int:
        asked.append(where.type)
        return 12_345

    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", measured)
    with closing(paged_whole(canary())) as runner:
        (stage,) = runner.stages
        assert stage.peak_bytes is None
        with monkeypatch.context() as patch:
            patch.setattr(stage._runner.device, "is_cpu", False)  # type: ignore[attr-defined]
            assert stage.peak_bytes == 12_345
    assert asked == ["cpu"]
