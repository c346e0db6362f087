"""Attention over blocks in plain torch: sequences of about one length and as many rows are computed together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Attention, LayerMemory, StepRows

_MOST_PADDING = 1.25
"""The longest sequence of a group over its shortest: what is gathered beyond a sequence's end is for nothing."""


def attend_ragged(
    q: Tensor, memory: LayerMemory, rows: StepRows, how: Attention, out: Tensor
) -> None:
    """See Kernels.attend."""
    starts, lengths = rows.row_starts.tolist(), rows.lengths.tolist()
    n_rows = [last - first for first, last in pairwise(starts)]
    for group in _alike(n_rows, lengths):
        first = torch.tensor([starts[i] for i in group])[:, None]
        at = (first + torch.arange(n_rows[group[0]])).to(q.device)  # [g, m]
        longest = max(lengths[i] for i in group)
        if not longest:
            out[at] = 0
            continue
        tables = rows.block_tables[group, : -(-longest // memory.keys.shape[1])].long()
        keys, values = (_held(pool, tables, longest) for pool in memory)
        queries = q[at].float().transpose(1, 2)  # [g, Hq, m, D]
        seen = _seen(rows.lengths[group], at.shape[1], longest, how.window)
        attended = _attention(queries, keys, values, seen, how)
        out[at] = attended.transpose(1, 2).to(out.dtype)


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
    """Keys or values of some sequences [g, Hkv, longest, D] in float32."""
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
