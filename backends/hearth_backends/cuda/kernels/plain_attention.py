"""Attention over blocks in plain torch: sequences of about one length and as many rows are computed together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

_MOST_PADDING = 1.25
"""The longest sequence of a group over its shortest: what is gathered beyond a sequence's end is for nothing."""


@dataclass(frozen=True, slots=True)
class Paged:
    """Key-value memory of one layer, and where s sequences have theirs."""

    k_pool: Tensor  # [n_blocks, block, Hkv, D]
    v_pool: Tensor
    block_tables: Tensor  # [s, blocks]
    lengths: Sequence[int]  # [s]

    def gathered(self, group: list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of some sequences [g, Hkv, longest, D] in float32."""
        longest = max(self.lengths[i] for i in group)
        n_blocks = -(-longest // self.k_pool.shape[1])
        tables = self.block_tables[group, :n_blocks].long()
        return _held(self.k_pool, tables, longest), _held(self.v_pool, tables, longest)


@dataclass(frozen=True, slots=True)
class Attention:
    """How scores are made; see Kernels.attend."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None


def attend_ragged(
    q: Tensor, paged: Paged, row_starts: Sequence[int], how: Attention, out: Tensor
) -> None:
    """See Kernels.attend."""
    n_rows = [last - first for first, last in pairwise(row_starts)]
    for group in _alike(n_rows, paged.lengths):
        first = torch.tensor([row_starts[i] for i in group])[:, None]
        rows = (first + torch.arange(n_rows[group[0]])).to(q.device)  # [g, m]
        if not paged.lengths[group[0]]:
            out[rows] = 0
            continue
        lengths = torch.tensor([paged.lengths[i] for i in group], device=q.device)
        keys, values = paged.gathered(group)
        queries = q[rows].float().transpose(1, 2)  # [g, Hq, m, D]
        seen = _seen(lengths, rows.shape[1], keys.shape[2], how.window)
        attended = _attention(queries, keys, values, seen, how)
        out[rows] = attended.transpose(1, 2).to(out.dtype)


def _alike(n_rows: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Sequences in groups of as many rows and about one length."""
    order = sorted(range(len(lengths)), key=lambda i: (n_rows[i], lengths[i]))
    group: list[int] = []
    for i in order:
        if n_rows[i] == 0:
            continue
        if group and (
            n_rows[i] != n_rows[group[0]] or lengths[i] > _MOST_PADDING * lengths[group[0]]
        ):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _held(pool: Tensor, tables: Tensor, longest: int) -> Tensor:
    octets = pool.view(torch.uint8)[tables].view(pool.dtype)  # some floats cannot be taken by index
    return octets.flatten(1, 2)[:, :longest].float().transpose(1, 2)


def _seen(lengths: Tensor, n_rows: int, longest: int, window: int | None) -> Tensor:
    """Which tokens each row attends to [g, 1, m, longest]."""
    token = torch.arange(longest, device=lengths.device)
    row = lengths[:, None] + torch.arange(-n_rows, 0, device=lengths.device)  # [g, m]
    seen = token <= row[:, :, None]
    if window is not None:
        seen &= token > row[:, :, None] - window
    return seen[:, None]


def _attention(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor, how: Attention) -> Tensor:
    if how.softcap is None and how.sinks is None:
        return torch.nn.functional.scaled_dot_product_attention(
            q, keys, values, attn_mask=seen, scale=how.scale, enable_gqa=True
        )
    n_groups, n_heads, n_rows, dim = q.shape
    shared = q.reshape(n_groups, keys.shape[1], -1, dim)  # heads that share keys, as rows
    scores = (shared @ keys.mT).view(n_groups, n_heads, n_rows, -1) * how.scale
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    scores = scores.masked_fill(~seen, -math.inf)
    if how.sinks is not None:
        sink = how.sinks.float()[:, None, None].expand(n_groups, -1, n_rows, 1)
        shares = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        shares = scores.softmax(dim=-1)
    attended = shares.view(n_groups, keys.shape[1], -1, keys.shape[2]) @ values
    return attended.view(n_groups, n_heads, n_rows, -1)
