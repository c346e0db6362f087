"""Ragged steps over paged memory, made from a few numbers: what tests of kernels compare implementations on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Attention, Kernels, LayerMemory, StepRows

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
    kv: LayerMemory
    rows: StepRows
    how: Attention


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
    tables = (torch.randperm(n_blocks - 1)[: n_seq * n_columns] + 1).int().view(n_seq, -1)
    sinks = torch.randn(n_heads) if case.has_sinks else None
    return Memory(
        q=joint[:, :n_heads],
        kv=LayerMemory(*pools),
        rows=_rows(tables, torch.tensor([0, *case.n_rows]), torch.tensor(case.lengths)),
        how=Attention(case.dim**-0.5, case.window, case.softcap, sinks),
    )


def single(memory: Memory) -> Memory:
    """The same of each sequence's first row, which counts as its last."""
    rows, first = memory.rows, memory.rows.row_starts[:-1].long()
    ones = torch.ones(1 + len(first)).int()
    ones[0] = 0
    return replace(memory, q=memory.q[first], rows=_rows(rows.block_tables, ones, rows.lengths))


def _rows(tables: Tensor, counts: Tensor, lengths: Tensor) -> StepRows:
    """`counts` of rows, behind a zero; attention asks for nothing else."""
    starts = counts.cumsum(0).int()
    nothing = torch.zeros(int(starts[-1])).int()
    return StepRows(nothing, nothing, nothing, tables, starts, lengths.int())


def attended(kernels: Kernels, memory: Memory) -> Tensor:
    """What a case's rows attend to; whatever was not written is not a number."""
    out = torch.full(memory.q.shape, torch.nan, dtype=memory.q.dtype)
    kernels.attend(memory.q, memory.kv, memory.rows, memory.how, out)
    return out
