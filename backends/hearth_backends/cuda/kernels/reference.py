"""ReferenceKernels: plain torch, float32 inside, one sequence after the other; exact and slow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Draws
from hearth_backends.sampling import FLOOR

_MASK32 = 0xFFFFFFFF
_LN_FLOOR = math.log(FLOOR)


class ReferenceKernels:
    """See Kernels; on a GPU `attend` waits for the device to tell lengths."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
        """See Kernels."""
        h = x.float()
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True) + eps)
        factor = weight.float() + 1.0 if unit_offset else weight.float()
        return (h * factor).to(x.dtype)

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float, unit_offset: bool
    ) -> Tensor:
        """See Kernels."""
        residual.add_(x)
        return self.rms_norm(residual, weight, eps, unit_offset)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """See Kernels."""
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate) * up

    def gelu_mul(self, gate_up: Tensor) -> Tensor:
        """See Kernels."""
        gate, up = gate_up.chunk(2, dim=-1)
        return torch.nn.functional.gelu(gate, approximate="tanh") * up

    def store_qkv(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_norm: Tensor | None,
        k_norm: Tensor | None,
        eps: float,
        unit_offset: bool,
        cos: Tensor,
        sin: Tensor,
        positions: Tensor,
        slots: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
    ) -> None:
        """See Kernels."""
        at = positions.long()
        turns = (cos[at][:, None], sin[at][:, None])
        queries = q if q_norm is None else self.rms_norm(q, q_norm, eps, unit_offset)
        keys = k if k_norm is None else self.rms_norm(k, k_norm, eps, unit_offset)
        q.copy_(_turned(queries, *turns))
        places = slots.long()
        for pool, values in ((k_pool, _turned(keys, *turns)), (v_pool, v)):
            octets = pool.flatten(0, 1).view(torch.uint8)  # some floats cannot be put by index
            octets[places] = values.to(pool.dtype).contiguous().view(torch.uint8)

    def attend(
        self,
        q: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
        block_tables: Tensor,
        row_starts: Tensor,
        lengths: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
        out: Tensor,
    ) -> None:
        """See Kernels."""
        starts = row_starts.tolist()
        for i, length in enumerate(lengths.tolist()):
            rows = slice(starts[i], starts[i + 1])
            if not length:
                out[rows] = 0
                continue
            table = block_tables[i, : -(-length // k_pool.shape[1])].long()
            keys, values = _held(k_pool, table, length), _held(v_pool, table, length)
            out[rows] = _attention(q[rows].float(), keys, values, scale, window, softcap, sinks)

    def attend_decode(
        self,
        q: Tensor,
        k_pool: Tensor,
        v_pool: Tensor,
        block_tables: Tensor,
        lengths: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
        out: Tensor,
    ) -> None:
        """See Kernels."""
        starts = torch.arange(len(lengths) + 1, dtype=torch.int32)
        self.attend(
            q, k_pool, v_pool, block_tables, starts, lengths, scale, window, softcap, sinks, out
        )

    def draw(self, logits: Tensor, draws: Draws) -> Tensor:
        """See Kernels."""
        top = logits.amax(dim=1, keepdim=True)
        best = logits.argmax(dim=1)
        temperature = draws.temperature[:, None]
        warm = temperature.clamp_min(1e-30)
        floor = torch.where(temperature > 0, top + temperature * _LN_FLOOR, top)
        z = torch.where(logits >= floor, (logits - top) / warm, -math.inf)
        z = _at_least(z, _kth_largest(z, draws.top_k))
        z = _at_least(z, _nucleus(z, draws.top_p))
        z = _at_least(z, torch.log(draws.min_p)[:, None])
        drawn = (z - _exponentials(draws.keys, logits.shape[1]).log()).argmax(dim=1)
        is_certain = (draws.temperature == 0) | (top[:, 0] == math.inf)
        tokens = torch.where(is_certain, best, drawn)
        return torch.where(top[:, 0] > -math.inf, tokens, -1).to(torch.int32)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    x = x.float()
    a, b, rest = torch.split(x, [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def _held(pool: Tensor, table: Tensor, length: int) -> Tensor:
    """[length, Hkv, D] in float32."""
    octets = pool.view(torch.uint8)[table].view(pool.dtype)
    return octets.flatten(0, 1)[:length].float()


def _attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """The last rows of one sequence [m, Hq, D], over all its tokens."""
    n_rows, n_tokens = len(q), len(keys)
    n_shared = q.shape[1] // keys.shape[1]
    keys, values = (t.repeat_interleave(n_shared, dim=1) for t in (keys, values))
    scores = torch.einsum("mhd,lhd->hml", q, keys) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    row = torch.arange(n_tokens - n_rows, n_tokens, device=q.device)[:, None]
    token = torch.arange(n_tokens, device=q.device)[None]
    seen = token <= row
    if window is not None:
        seen &= token > row - window
    scores = scores.masked_fill(~seen, -math.inf)
    if sinks is not None:
        sink = sinks.float()[:, None, None].expand(-1, n_rows, 1)
        shares = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        shares = scores.softmax(dim=-1)
    return torch.einsum("hml,lhd->mhd", shares, values)


# --- drawing -----------------------------------------------------------------------------------


def _at_least(z: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(z >= threshold, z, -math.inf)


def _kth_largest(z: Tensor, top_k: Tensor) -> Tensor:
    """[k, 1]; minus infinity where the filter is off."""
    n_vocab = z.shape[1]
    ordered = z.sort(dim=1, descending=True).values
    at = top_k.long().clamp(1, n_vocab)[:, None] - 1
    return torch.where(top_k[:, None] > 0, ordered.gather(1, at), -math.inf)


def _nucleus(z: Tensor, top_p: Tensor) -> Tensor:
    """[k, 1] the largest threshold whose tokens hold top_p of what is left; minus infinity where it is off."""
    ordered = z.sort(dim=1, descending=True).values
    held = ordered.exp().double().cumsum(dim=1)
    wanted = top_p.double()[:, None] * held[:, -1:]
    at = torch.searchsorted(held, wanted).clamp_max(z.shape[1] - 1)
    return torch.where(top_p[:, None] < 1.0, ordered.gather(1, at), -math.inf)


def _exponentials(keys: Tensor, n_vocab: int) -> Tensor:
    """Noise [k, n_vocab] of mean 1, as the definition makes it from keys."""
    low, high = (keys.long() & _MASK32).unbind(dim=1)
    tokens = _mix32(torch.arange(1, n_vocab + 1, device=keys.device))
    hashes = _mix32(tokens[None] ^ low[:, None], high[:, None])
    v = hashes.float() * 2.0**-32 + 2.0**-33
    return -torch.log1p(-v.clamp_max(1.0 - 2.0**-24))


def _mix32(x: Tensor, addend: Tensor | None = None) -> Tensor:
    """lowbias32 on the low halves of int64."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D & _MASK32
    x = x ^ (x >> 15)
    if addend is not None:
        x = x + addend & _MASK32
    x = x * 0x846CA68B & _MASK32
    return x ^ (x >> 16)
