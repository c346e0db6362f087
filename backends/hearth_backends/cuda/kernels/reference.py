"""ReferenceKernels: plain torch on any device, float32 inside; what the others are tested against, and the
kernels of processors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Attention, Draws, LayerMemory, Rope, StepRows
from hearth_backends.cuda.kernels.packing import Int4, dequantized
from hearth_backends.cuda.kernels.plain_attention import attend_ragged
from hearth_backends.cuda.kernels.plain_draw import draw_plain
from hearth_backends.kv.contract import BLOCK_TOKENS


class ReferenceKernels:
    """See Kernels; on a GPU `attend` waits for the device to tell lengths."""

    def prepare(
        self, tokens: Tensor, row_starts: Tensor, lengths: Tensor, seats: Tensor, tables: Tensor,
        last: Tensor, n_columns: int,
    ) -> StepRows:  # fmt: skip
        """See Kernels."""
        rows = torch.arange(len(tokens), dtype=torch.int32, device=tokens.device)
        owners = torch.searchsorted(row_starts, rows, right=True) - 1
        first = lengths - row_starts[1:] + row_starts[:-1]  # position of each sequence's first row
        positions = (first[owners] + rows - row_starts[owners]).clamp_min(0)
        of_rows = seats.long()[owners]
        known = torch.where(tokens < 0, last[of_rows], tokens).clamp_min(0)
        blocks = tables[of_rows, (positions // BLOCK_TOKENS).long()]
        slots = blocks * BLOCK_TOKENS + positions % BLOCK_TOKENS
        copied = tables[seats.long(), :n_columns]
        return StepRows(known, positions, slots, copied, row_starts, lengths)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See Kernels."""
        h = x.float()
        return (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See Kernels."""
        return self.rms_norm(residual.add_(x), weight, eps)

    def gated(self, gate_up: Tensor, *, gelu: bool) -> Tensor:
        """See Kernels."""
        gate, up = gate_up.chunk(2, dim=-1)
        if gelu:
            return torch.nn.functional.gelu(gate, approximate="tanh") * up
        return torch.nn.functional.silu(gate) * up

    def store_qkv(
        self, q: Tensor, k: Tensor, v: Tensor, q_norm: Tensor | None, k_norm: Tensor | None,
        eps: float, rope: Rope, rows: StepRows, memory: LayerMemory,
    ) -> None:  # fmt: skip
        """See Kernels."""
        at = rows.positions.long()
        turns = Rope(rope.cos[at][:, None], rope.sin[at][:, None])
        queries, keys = q.float(), k.float()
        if q_norm is not None:
            queries = self.rms_norm(queries, q_norm, eps)
        if k_norm is not None:
            keys = self.rms_norm(keys, k_norm, eps)
        q.copy_(_turned(queries, turns))
        places = rows.slots.long()
        _put(memory.keys, places, _turned(keys, turns))
        _put(memory.values, places, v)

    def attend(
        self, q: Tensor, memory: LayerMemory, rows: StepRows, how: Attention, out: Tensor
    ) -> None:
        """See Kernels."""
        attend_ragged(q, memory, rows, how, out)

    def int4_linear(self, x: Tensor, matrix: Int4) -> Tensor:
        """See Kernels."""
        return torch.nn.functional.linear(x, dequantized(matrix, x.dtype))

    def eight_bit_linear(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """See Kernels."""
        y = torch.nn.functional.linear(x, weight.to(x.dtype))
        return (y.float() * scales).to(x.dtype)

    def draw(self, logits: Tensor, draws: Draws) -> Tensor:
        """See Kernels."""
        return draw_plain(logits, draws)


def _put(pool: Tensor, places: Tensor, values: Tensor) -> None:
    if pool.dtype.itemsize == 1:
        most = torch.finfo(pool.dtype).max
        values = values.float().clamp(-most, most)
    octets = pool.flatten(0, 1).view(torch.uint8)  # some floats cannot be put by index
    octets[places] = values.to(pool.dtype).contiguous().view(torch.uint8)


def _turned(x: Tensor, turns: Rope) -> Tensor:
    half = turns.cos.shape[-1]
    a, b, rest = torch.split(x, [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * turns.cos - b * turns.sin, b * turns.cos + a * turns.sin, rest], dim=-1)
