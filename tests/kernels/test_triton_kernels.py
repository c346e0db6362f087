"""Every Triton kernel computes what the plain one does; in Triton's interpreter.

float32 and float16 only: the interpreter multiplies bfloat16 wrongly, and where it rounds to an 8-bit float
it loses the carry into the exponent, so that what is stored in 8 bits here needs no rounding.
"""

from __future__ import annotations

import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")
import torch
from kernel_cases import BLOCK, Ragged, attended, made, ragged, single
from torch import Tensor

from hearth_backends.base import Sampled
from hearth_backends.cuda.device import Accelerator
from hearth_backends.cuda.kernels.contract import Draws, Kernels, LayerMemory, Rope, StepRows
from hearth_backends.cuda.kernels.gpu.decode import n_splits
from hearth_backends.cuda.kernels.gpu.kernels import TritonKernels
from hearth_backends.cuda.kernels.gpu.parts import parts_of
from hearth_backends.cuda.kernels.packing import int4_of
from hearth_backends.cuda.kernels.reference import ReferenceKernels
from hearth_bench.gpu_model import Maker, Room, open_stage
from hearth_bench.gpu_steps import Steps, finish
from hearth_bench.shapes import Shape

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="TRITON_INTERPRET=1"),
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # infinities, of which NumPy warns
]

TRITON, PLAIN = TritonKernels(), ReferenceKernels()
F8 = torch.float8_e4m3fn
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}
DTYPES = st.sampled_from([torch.float32, torch.float16])
SEEDS = st.integers(0, 999)
few = settings(max_examples=12, deadline=None)


def close(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    return torch.allclose(a.float(), b.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


# --- attention ---------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(ragged(), DTYPES, st.booleans())
def test_ragged_rows(case: Ragged, dtype: torch.dtype, in_8_bits: bool) -> None:
    memory = made(case, dtype, F8 if in_8_bits else None)
    assert close(attended(TRITON, memory), attended(PLAIN, memory), dtype)


@settings(max_examples=20, deadline=None)
@given(ragged(most=300), DTYPES, st.booleans())
def test_one_row_of_each_sequence(case: Ragged, dtype: torch.dtype, in_8_bits: bool) -> None:
    memory = single(made(case, dtype, F8 if in_8_bits else None))
    assert close(attended(TRITON, memory), attended(PLAIN, memory), dtype)


@pytest.mark.parametrize("window", [None, 700])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_long_contexts_are_split_and_joined(window: int | None, has_sinks: bool) -> None:
    case = Ragged((1, 1, 1), (2100, 40, 0), 1, 4, 16, window, None, has_sinks, 3)
    memory = made(case, torch.float32)
    assert n_splits(3, 1, memory.rows.block_tables.shape[1] * BLOCK, 2) > 1
    assert close(attended(TRITON, memory), attended(PLAIN, memory), torch.float32)


def test_splits_follow_from_shapes() -> None:
    assert n_splits(1, 8, 131072, 132) == 128
    assert n_splits(1, 8, 4096, 132) == 8
    assert n_splits(32, 8, 2048, 132) == 4
    assert n_splits(256, 8, 2048, 132) == 1
    assert n_splits(256, 8, 8192, 132) == 2  # long contexts differ in length


# --- around it ---------------------------------------------------------------------------------


@few
@given(
    DTYPES, st.sampled_from([(16, 8), (24, 12), (32, 10), (32, 16)]), st.booleans(), st.booleans(),
    st.booleans(), SEEDS,
)  # fmt: skip
def test_queries_and_keys_are_normed_turned_and_stored(
    dtype: torch.dtype, dims: tuple[int, int], q_normed: bool, k_normed: bool, in_8_bits: bool, seed: int
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    (dim, half), n, n_heads, n_kv_heads = dims, 5, 4, 2
    qkv = torch.randn(n, n_heads + 2 * n_kv_heads, dim).to(dtype)
    angles = torch.randn(40, half)
    if in_8_bits:
        qkv, angles, k_normed = qkv.to(F8).to(dtype), torch.zeros(40, half), False
    q_norm = torch.randn(dim) if q_normed else None
    k_norm = torch.randn(dim) if k_normed else None
    positions = torch.tensor([0, 39, 3, 4, 5]).int()
    slots = torch.randperm(6 * BLOCK)[:n].int()
    rows = StepRows(positions, positions, slots, positions, positions, positions)
    rope = Rope(angles.cos(), angles.sin())

    def stored(kernels: Kernels) -> list[Tensor]:
        joint = qkv.clone()
        q, k, v = joint.tensor_split((n_heads, n_heads + n_kv_heads), dim=1)
        kind = F8 if in_8_bits else dtype
        memory = LayerMemory(*(torch.zeros(6, BLOCK, n_kv_heads, dim).to(kind) for _ in range(2)))
        kernels.store_qkv(q, k, v, q_norm, k_norm, 1e-6, rope, rows, memory)
        return [joint, *memory]

    for ours, wanted in zip(stored(TRITON), stored(PLAIN), strict=True):
        assert close(ours, wanted, dtype)


@few
@given(DTYPES, st.integers(1, 4), st.sampled_from([16, 100, 640]), SEEDS)
def test_norms(dtype: torch.dtype, n: int, dim: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, residual = torch.randn(2, n, dim).to(dtype).unbind(0)
    weight = torch.randn(dim)
    ours, wanted = residual.clone(), residual.clone()
    normed = TRITON.add_rms_norm(x, ours, weight, 1e-5)
    assert close(normed, PLAIN.add_rms_norm(x, wanted, weight, 1e-5), dtype)
    assert close(ours, wanted, dtype)
    apart = torch.randn(n, 2, dim).to(dtype)[:, 0]
    assert close(TRITON.rms_norm(apart, weight, 1e-5), PLAIN.rms_norm(apart, weight, 1e-5), dtype)


@few
@given(DTYPES, st.integers(1, 3), st.sampled_from([1, 100, 1500]), SEEDS)
def test_gates(dtype: torch.dtype, n: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    gate_up = (3 * torch.randn(n, 2 * width)).to(dtype)
    for gelu in (False, True):
        assert close(TRITON.gated(gate_up, gelu=gelu), PLAIN.gated(gate_up, gelu=gelu), dtype)


@few
@given(ragged(), SEEDS)
def test_a_step_is_prepared(case: Ragged, seed: int) -> None:
    torch.manual_seed(seed)
    n, n_seq = sum(case.n_rows), len(case.lengths)
    arguments = (
        torch.randint(-1, 9, (n,)).int(),
        torch.tensor([0, *case.n_rows]).cumsum(0).int(),
        torch.tensor(case.lengths).int(),
        torch.randperm(n_seq + 2)[:n_seq].int(),
        torch.randint(0, 99, (n_seq + 2, 300)).int(),
        torch.randint(-1, 99, (n_seq + 2,)).int(),
        270,
    )
    for ours, wanted in zip(TRITON.prepare(*arguments), PLAIN.prepare(*arguments), strict=True):
        assert torch.equal(ours, wanted)


# --- products ----------------------------------------------------------------------------------


@few
@given(
    DTYPES, st.sampled_from([1, 5, 17, 70]), st.sampled_from([64, 70]),
    st.sampled_from([(128, 256), (64, 192), (32, 160), (128, 1024)]), st.booleans(), SEEDS,
)  # fmt: skip
def test_products_by_4_bits(
    dtype: torch.dtype, n: int, n_out: int, shape: tuple[int, int], has_zeros: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    group, n_in = shape
    scales = (torch.rand(n_out, n_in // group) / 100).half()
    zeros = torch.randint(0, 16, scales.shape).to(torch.uint8) if has_zeros else None
    matrix = int4_of(torch.randint(0, 256, (n_out, n_in // 2)).to(torch.uint8), scales, zeros)
    x = torch.randn(n, n_in).to(dtype)
    assert close(TRITON.int4_linear(x, matrix), PLAIN.int4_linear(x.float(), matrix), dtype)


@few
@given(
    DTYPES, st.sampled_from([1, 5, 17, 70]), st.sampled_from([64, 70]), st.sampled_from([128, 200, 1024]),
    st.booleans(), SEEDS,
)  # fmt: skip
def test_products_by_8_bits(
    dtype: torch.dtype, n: int, n_out: int, n_in: int, integers: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    weight = (
        torch.randint(-127, 128, (n_out, n_in)).to(torch.int8)
        if integers
        else torch.randn(n_out, n_in).to(F8)
    )
    scales = torch.rand(n_out) / (3000 if integers else 30)
    x = torch.randn(n, n_in).to(dtype)
    ours = TRITON.eight_bit_linear(x, weight, scales)
    assert close(ours, PLAIN.eight_bit_linear(x.float(), weight, scales), dtype)


@given(st.integers(1, 500), st.integers(1, 300), st.integers(1, 140))
def test_parts_are_whole_and_none_is_empty(programs: int, steps: int, processors: int) -> None:
    parts = parts_of(programs, steps, processors)
    assert parts.n * parts.size >= steps
    assert (parts.n - 1) * parts.size < steps


# --- drawing -----------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from([77, 5000]),
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.3, 1.0, 2.5]), st.sampled_from([0, 1, 5, 1000]),
            st.sampled_from([1.0, 0.9, 0.2]), st.sampled_from([0.0, 0.05]),
        ),
        min_size=1, max_size=3,
    ),
    SEEDS,
)  # fmt: skip
def test_draws(n_vocab: int, rows: list[tuple[float, int, float, float]], seed: int) -> None:
    torch.manual_seed(seed)
    logits = (torch.randn(len(rows), n_vocab) * 8).round() / 4  # many are equal
    temperature, top_k, top_p, min_p = (torch.tensor(column) for column in zip(*rows, strict=True))
    keys = torch.randint(-(2**31), 2**31, (len(rows), 2)).int()
    draws = Draws(temperature, top_k.int(), top_p, min_p, keys)
    assert TRITON.draw(logits, draws).tolist() == PLAIN.draw(logits, draws).tolist()


def test_a_crowd_above_the_floor_is_counted_in_place() -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, 20_000)
    draws = Draws(
        torch.ones(2), torch.tensor([900, 0]).int(), torch.tensor([0.9, 0.5]), torch.zeros(2),
        torch.tensor([[1, 2], [3, 4]]).int(),
    )  # fmt: skip
    assert TRITON.draw(logits, draws).tolist() == PLAIN.draw(logits, draws).tolist()


def test_rows_without_a_token() -> None:
    logits = torch.randn(3, 77)
    logits[0] = -math.inf
    logits[1, 3] = math.nan
    logits[2, 60] = math.inf
    draws = Draws(
        torch.ones(3), torch.zeros(3).int(), torch.ones(3), torch.zeros(3), torch.zeros(3, 2).int()
    )
    assert TRITON.draw(logits, draws).tolist() == [-1, -1, 60]


# --- together ----------------------------------------------------------------------------------


def test_a_stage_says_the_same_with_either() -> None:
    shape = Shape("tiny", "llama", 2, 64, 4, 2, 96, 130, 256, 1e4, 1e-5, tied=False)
    room = Room(n_seq=2, n_ctx=64, n_rows=32, kv_tokens=192, kv_dtype=torch.float32)
    said = []
    for kernels in (TRITON, PLAIN):
        torch.manual_seed(2)
        maker = Maker(shape, Accelerator("cpu:0"), torch.float32, kernels)
        with torch.inference_mode():
            stage = open_stage(maker, maker.weights("float", room.n_ctx), room)
            steps = Steps(stage, 2, 20, 8)
            batches = [steps.prefill(0, 20), *(steps.decode() for _ in range(4))]
            found = [finish(stage, stage.submit(batch, None)) for batch in batches]
        said.append([f.tokens.tolist() for f in found if isinstance(f, Sampled)])
    assert said[0] == said[1]
    assert len(said[0]) == 5
