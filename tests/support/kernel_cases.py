"""Ragged steps over paged memory, made from a few numbers: what tests of kernels compare implementations on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Kernels

BLOCK = 16


@dataclass(frozen=True)
class Ragged:
    """Rows of some sequences and how they attend."""

    n_rows: tuple[int, ...]  # of each sequence
    lengths: tuple[int, ...]  # rows included; 0: nobody's
    n_kv_heads: int
    n_shared: int
    dim: int
    window: int | None
    softcap: float | None
    has_sinks: bool
    seed: int


@dataclass(frozen=True)
class Memory:
    """The tensors of a case."""

    q: Tensor
    k_pool: Tensor
    v_pool: Tensor
    block_tables: Tensor
    row_starts: Tensor
    lengths: Tensor
    sinks: Tensor | None


@st.composite
def ragged(draw: st.DrawFn, *, dims: tuple[int, ...] = (16, 24, 32), most: int = 90) -> Ragged:
    """Single rows and prompts mixed, lengths around the ends of blocks and tiles, padding rows among them."""
    n_seq = draw(st.integers(1, 4))
    pairs = []
    for _ in range(n_seq):
        length = draw(
            st.one_of(st.integers(1, most), st.sampled_from([0, 1, 15, 16, 17, 63, 64, 65]))
        )
        rows = 1 if length == 0 else draw(st.one_of(st.just(1), st.integers(1, min(length, 40))))
        pairs.append((rows, length))
    return Ragged(
        n_rows=tuple(rows for rows, _ in pairs),
        lengths=tuple(length for _, length in pairs),
        n_kv_heads=draw(st.integers(1, 2)),
        n_shared=draw(st.sampled_from([1, 2, 3, 4, 7])),
        dim=draw(st.sampled_from(dims)),
        window=draw(st.sampled_from([None, None, 1, 20, 64])),
        softcap=draw(st.sampled_from([None, None, 5.0])),
        has_sinks=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )


def made(case: Ragged, dtype: torch.dtype, kv: torch.dtype | None = None) -> Memory:
    """Random numbers in the places that a case describes; blocks lie in any order."""
    torch.manual_seed(case.seed)
    n_columns = -(-max(1, *case.lengths) // BLOCK) + 1
    n_seq = len(case.lengths)
    n_blocks = n_seq * n_columns + 1
    n_heads = case.n_kv_heads * case.n_shared
    joint = torch.randn(sum(case.n_rows), n_heads + 2, case.dim).to(dtype)  # rows lie apart
    pools = torch.randn(2, n_blocks, BLOCK, case.n_kv_heads, case.dim).to(kv or dtype)
    starts = torch.tensor([0, *case.n_rows]).cumsum(0)
    return Memory(
        q=joint[:, :n_heads],
        k_pool=pools[0],
        v_pool=pools[1],
        block_tables=(torch.randperm(n_blocks - 1)[: n_seq * n_columns] + 1).int().view(n_seq, -1),
        row_starts=starts.int(),
        lengths=torch.tensor(case.lengths).int(),
        sinks=torch.randn(n_heads) if case.has_sinks else None,
    )


def attended(kernels: Kernels, case: Ragged, memory: Memory) -> Tensor:
    """What a case's rows attend to; whatever was not written is not a number."""
    out = torch.full(memory.q.shape, torch.nan, dtype=memory.q.dtype)
    kernels.attend(
        memory.q, memory.k_pool, memory.v_pool, memory.block_tables, memory.row_starts, memory.lengths,
        case.dim**-0.5, case.window, case.softcap, memory.sinks, out,
    )  # fmt: skip
    return out


def decoded(kernels: Kernels, case: Ragged, memory: Memory) -> Tensor:
    """The same of each sequence's first row, which counts as its last."""
    q = memory.q[memory.row_starts[:-1].long()]
    out = torch.full(q.shape, torch.nan, dtype=q.dtype)
    kernels.attend_decode(
        q, memory.k_pool, memory.v_pool, memory.block_tables, memory.lengths,
        case.dim**-0.5, case.window, case.softcap, memory.sinks, out,
    )  # fmt: skip
    return out
