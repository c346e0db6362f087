"""What the planner is told of devices: measured where it was, assumed where not, and what they would be."""

from __future__ import annotations

import pytest

from hearthd.errors import InvalidRequest
from hearthd.hardware.checks import Calibration, PairReport
from hearthd.hardware.device import Device, GpuFacts, PciLink, Reading
from hearthd.placement.candidates import (
    Budgets,
    Estimate,
    ModelFacts,
    Shape,
    changed,
    links_of,
    shape_of,
    units_of,
)

GIB = 1 << 30
CPU = Device(
    name="cpu:0", identity="node:0", kind="cpu", vendor="amd", description="Cores",
    backends={"gguf": "cpu:0", "onnx": "cpu:0"},
)  # fmt: skip
CARD = Device(
    name="cuda:0", identity="nvidia:GPU-1", kind="gpu", vendor="nvidia", description="Card",
    reading=Reading(free_bytes=20 * GIB), backends={"cuda": "cuda:0"},
    gpu=GpuFacts(link=PciLink(16.0, 16)),
)  # fmt: skip
ESTIMATE = Estimate(weights_bytes=2200, kv_bytes_per_token=64.0, workspace_bytes=10)
FACTS = ModelFacts(
    name="m", task="generate", quantization="F16", context_trained=4096, layer_bytes=[500, 500],
    shape=Shape([250, 250], 100, 100, 50, 8, tied=True),
    estimates={"gguf": {"cpu:0": ESTIMATE}, "onnx": {}, "cuda": {"cuda:0": ESTIMATE}},
    support={"gguf": {"cpu:0": "yes"}, "onnx": {"cpu:0": "no such file"}, "cuda": {"cuda:0": "yes"}},
)  # fmt: skip
BUDGETS = Budgets(8 * GIB, {})


def report(outcome: str = "passed") -> PairReport:
    found = Calibration(
        threads=2, weights="Q4_0", layer_bytes=1, layer_seconds={1: 1.0},
        matmul_flops={1: 1e9, 8: 8e9, 64: 7e9}, weights_bytes_per_second=9e9,
    )  # fmt: skip
    return PairReport(
        device="cpu:0", identity="node:0", backend="gguf", backend_device="cpu:0", version="1",
        outcome=outcome, reason="it counts wrong", calibration=found,  # type: ignore[arg-type]
    )  # fmt: skip


def test_measured_and_assumed() -> None:
    units, left_out = units_of([CPU, CARD], [report()], FACTS, BUDGETS)
    assert [(u.name, u.backend, u.measured) for u in units] == [
        ("cpu:0", "gguf", True),
        ("cuda:0", "cuda", False),
    ]
    assert units[0].bytes_per_second == 9e9
    assert units[0].flops == ((1, 1e9), (8, 8e9), (64, 8e9))
    assert units[0].weights_factor == 2
    assert [u.budget_bytes for u in units] == [8 * GIB, 18 * GIB]
    assert left_out == ["cpu:0 with onnx: no such file"]


def test_what_failed_its_test_is_left_out() -> None:
    units, left_out = units_of([CPU], [report("failed")], FACTS, BUDGETS)
    assert units == []
    assert "cpu:0 with gguf: failed: it counts wrong" in left_out


def test_the_shape() -> None:
    shape = shape_of(FACTS)
    assert shape.layer_kv_bytes == (32, 32)
    assert shape.weights_bytes == 1100


def test_links_are_as_fast_as_the_slower_slot() -> None:
    links = links_of([CPU, CARD])
    assert links["cpu:0", "cuda:0"].bytes_per_second == pytest.approx(25.6e9)


def test_what_if() -> None:
    units, _ = units_of([CPU], [], FACTS, BUDGETS)
    more = changed(units, FACTS, ["add cuda:24GiB@900GB/s", "add cuda:8GiB@300GB/s@40TFLOPS"])
    assert [u.name for u in more] == ["cpu:0", "cuda:new0", "cuda:new1"]
    assert more[1].bytes_per_second == 900e9
    assert more[2].flops == ((1, 40e12),)
    assert changed(more, FACTS, ["remove cpu:0", "remove cuda:new1"]) == [more[1]]
    for text in ("add cuda", "remove cpu:7", "add cuda:24GiB@0GB/s"):
        with pytest.raises(InvalidRequest, match="what-if"):
            changed(units, FACTS, [text])
