"""Every kernel compiles for GPUs from Ampere to Blackwell: nothing spills, and tensor cores and asynchronous copies are used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("triton")
from kernel_lint import Compiled, compile_for

from hearth_backends.cuda.kernels.gpu import (
    activate,
    decode,
    draw,
    eight_bits,
    int4,
    norm,
    parts,
    prefill,
    prepare,
    store,
)
from hearth_backends.cuda.kernels.gpu.launch import Shape

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled there"
    ),
]

MOST_SHARED_BYTES = {80: 163 << 10, 90: 227 << 10, 120: 99 << 10}
"""Of one program, by architecture."""


@dataclass(frozen=True)
class Case:
    """A kernel as it is launched for a real shape."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: Mapping[str, object]
    warps: int = 4
    stages: int = 3
    is_product: bool = True  # uses tensor cores, and copies behind them
    archs: tuple[int, ...] = (80, 90, 120)
    odd: frozenset[str] = field(default=frozenset({"window"}))


def _attention(
    heads: int,
    shared: int,
    dim: int,
    *,
    pool: str = "bf16",
    window: bool = False,
    softcap: bool = False,
) -> tuple[dict[str, str], dict[str, object]]:
    types = {
        "q": "*bf16", "keys": f"*{pool}", "values": f"*{pool}", "out": "*bf16",
        **dict.fromkeys(("tables", "lengths", "row_starts"), "*i32"),
        **dict.fromkeys(("sinks", "sums", "tops", "totals"), "*fp32"),
        "scale": "fp32", "softcap": "fp32",
    }  # fmt: skip
    constants: dict[str, object] = {
        "HEADS": heads, "SHARED": shared, "DIM": dim, "WIDE": max(16, 1 << (dim - 1).bit_length()),
        "BLOCK": 16, "HAS_WINDOW": window, "HAS_SOFTCAP": softcap, "HAS_SINKS": False,
        "PRECISION": "tf32",
    }  # fmt: skip
    return types, constants


def _decode(name: str, *shape: int, splits: int = 8, itemsize: int = 2, **how: Any) -> Case:
    types, constants = _attention(*shape, **how)
    tuned = decode.tuning(int(str(constants["WIDE"])), 2)
    warps, stages = tuned.pop("num_warps"), tuned.pop("num_stages")
    constants |= {**tuned, "SPLITS": splits, "ROWS": 16}
    return Case(
        f"decode {name}", decode.decode, types, constants, warps, stages,
        archs=(80, 90, 120) if itemsize == 2 else (90, 120),
    )  # fmt: skip


def _prefill(name: str, n_rows: int, *shape: int, **how: Any) -> list[Case]:
    """As they are launched where warps multiply in groups, and elsewhere."""
    heads, shared, dim = shape
    cases = []
    for archs, warpgroups in (((90,), True), ((80, 120), False)):
        types, constants = _attention(*shape, **how)
        launched = Shape(heads * shared, heads, dim, 16)
        tuned = prefill.tuning(n_rows, 1, launched, 2, warpgroups=warpgroups)
        warps, stages = tuned.pop("num_warps"), tuned.pop("num_stages")
        constants |= {**tuned, "TOKENS": tuned["ROWS"] // shared, "SEARCH_STEPS": 4}
        case = Case(
            f"prefill {name}", prefill.prefill, types, constants, warps, stages, archs=archs
        )
        cases.append(case)
    return cases


def _int4(name: str, rows: int, group: int, kind: str) -> Case:
    types = {"x": f"*{kind}", "words": "*i32", "scales": "*fp16", "zeros": "*fp16", "out": "*fp32"}
    constants = {
        "ROWS": rows, "OUTS": int4.OUTS, "GROUPS": 128 // group, "HAS_ZEROS": group == 32, "ZERO": 8.0,
        "IS_WHOLE": True, "PRECISION": "tf32",
    }  # fmt: skip
    return Case(f"int4 {name}", int4.int4_few, types, constants, 4, 4)


def _eight(name: str, kind: str, rows: int, archs: tuple[int, ...]) -> Case:
    types = {"x": "*bf16", "weight": f"*{kind}", "scales": "*fp32", "out": "*fp32"}
    constants = {
        "ROWS": rows, "OUTS": eight_bits.OUTS, "INPUTS": eight_bits.INPUTS, "IS_WHOLE": True,
        "PRECISION": "tf32",
    }  # fmt: skip
    return Case(f"8 bits {name}", eight_bits.eight_bits_few, types, constants, 4, 4, archs=archs)


def _plain(
    name: str, kernel: Any, types: dict[str, str], constants: Mapping[str, object], warps: int
) -> Case:
    return Case(name, kernel, types, constants, warps, is_product=False)


NEW = (90, 120)
ROPE = {
    **dict.fromkeys(("q", "k", "v", "k_pool", "v_pool"), "*bf16"),
    **dict.fromkeys(("q_norm", "k_norm", "cos", "sin"), "*fp32"), "positions": "*i32", "slots": "*i32", "eps": "fp32",
}  # fmt: skip
STORE = {
    "N_HEADS": 32, "N_KV_HEADS": 8, "DIM": 128, "WIDE": 128, "HALF": 64, "HALF_WIDE": 64, "REST_WIDE": 0,
    "HAS_Q_NORM": True, "HAS_K_NORM": True, "LARGEST": 0.0,
}  # fmt: skip
NORM = {**dict.fromkeys(("x", "residual", "out"), "*bf16"), "weight": "*fp32", "eps": "fp32"}
DRAW = {
    **dict.fromkeys(("logits", "temperatures", "top_ps", "min_ps", "gathered"), "*fp32"),
    **dict.fromkeys(("top_ks", "keys", "tokens"), "*i32"), "ln_floor": "fp32",
}  # fmt: skip
PREPARE = dict.fromkeys(
    ("tokens", "row_starts", "lengths", "seats", "tables", "last", "known", "positions", "slots", "copied"),
    "*i32",
)  # fmt: skip
CASES = [
    _decode("llama 8b", 8, 4, 128),
    _decode("llama 8b, not split", 8, 4, 128, splits=1),
    _decode("llama 8b, fp8 keys", 8, 4, 128, itemsize=1, pool="fp8e4nv"),
    _decode("gemma 2 9b", 8, 2, 256, window=True, softcap=True),
    _decode("qwen 0.5b", 2, 7, 64),
    _decode("phi 3", 32, 1, 96, window=True),
    *_prefill("llama 8b", 2048, 8, 4, 128),
    *_prefill("llama 8b, few rows", 4, 8, 4, 128),
    *_prefill("gemma 2 9b", 2048, 8, 2, 256, window=True, softcap=True),
    *_prefill("qwen 0.5b", 2048, 2, 7, 64),
    _int4("g128 bf16", 16, 128, "bf16"),
    _int4("g128 fp16, more rows", 32, 128, "fp16"),
    _int4("g32 bf16", 16, 32, "bf16"),
    _eight("fp8", "fp8e4nv", 16, NEW),
    _eight("fp8, more rows", "fp8e4nv", 32, NEW),
    _eight("int8", "i8", 16, (80, *NEW)),
    _plain("widen", int4.int4_widen,
           {"words": "*i32", "scales": "*fp16", "zeros": "*fp16", "out": "*bf16"},
           {"OUTS": 64, "GROUPS": 1, "HAS_ZEROS": False, "ZERO": 8.0}, 4),
    _plain("join", decode.join,
           {**dict.fromkeys(("sums", "tops", "totals", "sinks"), "*fp32"), "lengths": "*i32", "out": "*bf16"},
           {"N_HEADS": 32, "DIM": 128, "WIDE": 128, "TILE": 64, "SPLITS": 32, "SPLITS_WIDE": 32,
            "HAS_WINDOW": False, "HAS_SINKS": False}, 4),
    _plain("join parts", parts.join_parts, {"parts": "*fp32", "out": "*bf16"}, {"WIDE": parts.WIDE}, 4),
    _plain("store", store.store, ROPE, STORE, 1),
    _plain("norm", norm.norm, NORM, {"DIM": 4096, "WIDE": 4096, "ADDS": True}, 8),
    _plain("activate", activate.activate, {"gate_up": "*bf16", "out": "*bf16"},
           {"WIDE": activate.WIDE, "IS_GELU": False}, 4),
    _plain("draw", draw.draw_rows, DRAW, {"GATHERED": draw.GATHERED, "WIDE": draw.WIDE}, 16),
    _plain("prepare", prepare.prepare_rows, PREPARE,
           {"BLOCK": 16, "ROWS": prepare.ROWS, "COLUMNS": prepare.COLUMNS, "SEARCH_STEPS": 9}, 4),
]  # fmt: skip


def _compiled(case: Case, arch: int) -> Compiled:
    return compile_for(
        arch, case.kernel, case.types, case.constants,
        num_warps=case.warps, num_stages=case.stages, odd=case.odd,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("case", "arch"),
    [
        pytest.param(case, arch, id=f"{case.name} sm_{arch}")
        for case in CASES
        for arch in case.archs
    ],
)
def test_nothing_spills_and_the_fast_instructions_are_there(case: Case, arch: int) -> None:
    made = _compiled(case, arch)
    assert made.stack_bytes == 0
    assert made.local_bytes == 0
    assert made.shared_bytes <= MOST_SHARED_BYTES[arch]
    if case.is_product:
        assert made.count("mma.sync") + made.count("wgmma.mma_async") > 0
        assert made.count("cp.async") > 0
