"""The kernels of processors: attention over blocks equals attention over whole tensors, codes come back from words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
import torch
from kernel_cases import BLOCK, Memory, Ragged, attended, made, ragged, single
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hearth_backends.cuda.kernels.contract import LayerMemory, Rope, StepRows
from hearth_backends.cuda.kernels.packing import dequantized, int4_of, pack_words, unpack_codes
from hearth_backends.cuda.kernels.reference import ReferenceKernels

KERNELS = ReferenceKernels()


def one_by_one(case: Ragged, memory: Memory) -> Tensor:
    """Each row for itself, with its keys and values side by side; a sink is one more key."""
    out = torch.zeros(memory.q.shape)
    for i, length in enumerate(case.lengths):
        if length == 0:
            continue
        table = memory.rows.block_tables[i].long()
        keys, values = (pool[table].flatten(0, 1)[:length].float() for pool in memory.kv)
        for row in range(case.n_rows[i]):
            at = int(memory.rows.row_starts[i]) + row
            last = length - case.n_rows[i] + row + 1
            first = 0 if case.window is None else max(0, last - case.window)
            for head in range(memory.q.shape[1]):
                shared = head // case.n_shared
                scores = keys[first:last, shared] @ memory.q[at, head].float() * case.dim**-0.5
                if case.softcap is not None:
                    scores = torch.tanh(scores / case.softcap) * case.softcap
                if memory.how.sinks is not None:
                    scores = torch.cat([scores, memory.how.sinks[head][None]])
                shares = scores.softmax(0)[: last - first]
                out[at, head] = shares @ values[first:last, shared]
    return out


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_attention_over_blocks_is_attention(case: Ragged) -> None:
    memory = made(case, torch.float32)
    assert torch.allclose(attended(KERNELS, memory), one_by_one(case, memory), atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(ragged())
def test_one_row_of_each_sequence_is_the_same(case: Ragged) -> None:
    memory = single(made(case, torch.float32))
    assert memory.rows.is_decode
    alone = replace(case, n_rows=(1,) * len(case.lengths))
    assert torch.allclose(attended(KERNELS, memory), one_by_one(alone, memory), atol=2e-5)


def test_a_whole_prompt_is_what_torch_calls_causal() -> None:
    case = Ragged((37,), (37,), 2, 3, 32, None, None, False, 5)
    memory = made(case, torch.float32)
    keys, values = (
        pool[memory.rows.block_tables[0].long()].flatten(0, 1)[:37].transpose(0, 1)
        for pool in memory.kv
    )
    wanted = scaled_dot_product_attention(
        memory.q.transpose(0, 1)[None], keys[None], values[None], is_causal=True, enable_gqa=True
    )
    assert torch.allclose(attended(KERNELS, memory), wanted[0].transpose(0, 1), atol=1e-5)


@pytest.mark.parametrize("n_in", [32, 128, 160, 512])
def test_codes_come_back_from_words(n_in: int) -> None:
    codes = torch.randint(0, 16, (5, n_in), dtype=torch.uint8)
    words = pack_words(codes)
    assert words.shape == (-(-n_in // 128), 5, 16)
    assert torch.equal(unpack_codes(words)[:, :n_in], codes)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(32, 96), (64, 128), (128, 256)]), st.booleans(), st.integers(0, 99))
def test_a_matrix_of_4_bits_is_codes_minus_zeros_times_scales(
    shape: tuple[int, int], has_zeros: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    group, n_in = shape
    codes = torch.randint(0, 16, (6, n_in), dtype=torch.uint8)
    scales = torch.rand(6, n_in // group)
    zeros = torch.randint(0, 16, scales.shape, dtype=torch.uint8) if has_zeros else None
    matrix = int4_of(codes[:, 0::2] | (codes[:, 1::2] << 4), scales, zeros)
    middle = 8.0 if zeros is None else zeros.float().repeat_interleave(group, 1)
    wanted = (codes.float() - middle) * scales.repeat_interleave(group, 1)
    assert torch.equal(dequantized(matrix, torch.float32), wanted)
    x = torch.randn(3, n_in)
    assert torch.allclose(KERNELS.int4_linear(x, matrix), x @ wanted.T, atol=1e-4)


def test_what_8_bit_floats_cannot_hold_becomes_their_largest() -> None:
    pools = [torch.zeros(2, BLOCK, 1, 4).to(torch.float8_e4m3fn) for _ in range(2)]
    qkv = torch.full((1, 3, 4), 1000.0)
    q, k, v = qkv.chunk(3, dim=1)
    turns = Rope(torch.ones(1, 1), torch.zeros(1, 1))
    zero = torch.zeros(1, dtype=torch.int32)
    rows = StepRows(zero, zero, zero + 17, zero, zero, zero)
    KERNELS.store_qkv(q, k, v, None, None, 1e-6, turns, rows, LayerMemory(*pools))
    for pool in pools:
        assert pool[1, 1, 0].float().tolist() == [448.0] * 4
        assert pool.float().sum() == 4 * 448.0


def test_a_step_is_prepared_from_persistent_rows() -> None:
    tables = torch.arange(12, dtype=torch.int32).view(3, 4)
    ready = KERNELS.prepare(
        tokens=torch.tensor([5, 6, 7, -1, 9, -1], dtype=torch.int32),
        row_starts=torch.tensor([0, 3, 4, 5, 6], dtype=torch.int32),
        lengths=torch.tensor([20, 33, 0, 1], dtype=torch.int32),
        seats=torch.tensor([1, 0, 2, 2], dtype=torch.int32),
        tables=tables,
        last=torch.tensor([77, 88, -1], dtype=torch.int32),
        n_columns=3,
    )
    assert isinstance(ready, StepRows)
    assert ready.tokens.tolist() == [5, 6, 7, 77, 9, 0]
    assert ready.positions.tolist() == [17, 18, 19, 32, 0, 0]
    assert ready.slots.tolist() == [5 * 16 + 1, 5 * 16 + 2, 5 * 16 + 3, 2 * 16, 8 * 16, 8 * 16]
    assert ready.block_tables.tolist() == tables[[1, 0, 2, 2], :3].tolist()
