"""The draw of `hearth_backends.sampling` in plain torch, many rows at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Draws
from hearth_backends.sampling import FLOOR

_MASK32 = 0xFFFFFFFF
_LN_FLOOR = math.log(FLOOR)


def draw_plain(logits: Tensor, draws: Draws) -> Tensor:
    """See Kernels.draw."""
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
