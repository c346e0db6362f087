"""The draw of `hearth_backends.sampling`: each row is one program's, from logits to a token.

Thresholds of top-k and top-p are found by bisection over the bits of z, which for numbers of one sign
are in the order of the numbers; what it counts are the tokens above the floor, few enough in most rows
to be gathered first.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hearth_backends.cuda.kernels.contract import Draws
from hearth_backends.sampling import FLOOR

WIDE = 4096
GATHERED = 16384
"""Tokens above the floor that are gathered; where there are more, the whole row is read each time."""
_LN_FLOOR = math.log(FLOOR)
_MOST_BITS = tl.constexpr(0x41600000)  # of 14.0, beyond which no z is
_BISECTIONS = tl.constexpr(31)
_ALL = tl.constexpr(2147483647)


@triton.jit
def _mix32(x, addend):
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x + addend
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _log_exponential(token, low, high):
    """ln E of the definition."""
    none = tl.zeros_like(low)
    h = _mix32(_mix32((token + 1).to(tl.uint32), none) ^ low, high)
    v = h.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    v = tl.minimum(v, 0.99999994039535522)
    return tl.log(tl.where(v < 0.000244140625, v + v * v * 0.5, -tl.log(1.0 - v)))


@triton.jit
def _bits(values, mask, top, temperature):
    """Bits of -z, which ascend as z goes down; the largest integer where masked."""
    distance = tl.maximum((top - values) / temperature, 0.0)
    return tl.where(mask, distance.to(tl.int32, bitcast=True), 2147483647)


@triton.jit
def _held(source, n, top, temperature, floor, limit, OF_MASS: tl.constexpr, WIDE: tl.constexpr):
    """How many tokens, or how much of exp z, have bits of at most `limit`."""
    i = tl.arange(0, WIDE)
    held = tl.zeros([WIDE], tl.float64)
    for first in range(0, n, WIDE):
        values = tl.load(source + first + i, mask=first + i < n, other=float("-inf"))
        is_in = values >= floor
        is_in = is_in & (_bits(values, is_in, top, temperature) <= limit)
        if OF_MASS:
            held += tl.where(is_in, tl.exp((values - top) / temperature), 0.0).to(tl.float64)
        else:
            held += is_in.to(tl.float64)
    return tl.sum(held, 0)


@triton.jit
def _smallest(
    source, n, top, temperature, floor, most, wanted, OF_MASS: tl.constexpr, WIDE: tl.constexpr
):
    """The smallest limit up to `most` that holds what is wanted; `most` where none does."""
    low = most * 0 - 1  # holds too little
    high = most
    for _ in range(_BISECTIONS):
        middle = low + (high - low) // 2
        is_enough = _held(source, n, top, temperature, floor, middle, OF_MASS, WIDE) >= wanted
        is_open = high - low > 1
        high = tl.where(is_open & is_enough, middle, high)
        low = tl.where(is_open & (is_enough == 0), middle, low)
    return high


@triton.jit(do_not_specialize_on_alignment=["temperatures", "top_ks", "top_ps", "min_ps", "keys"])
def draw_rows(
    logits, temperatures, top_ks, top_ps, min_ps, keys, tokens, gathered, n_vocab, stride, ln_floor,
    GATHERED: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Grid (rows,)."""
    row = tl.program_id(0).to(tl.int64)
    source = logits + row * stride
    i = tl.arange(0, WIDE)
    best = tl.full([WIDE], float("-inf"), tl.float32)
    where = tl.zeros([WIDE], tl.int32)
    is_number = tl.full([WIDE], 1, tl.int32)
    for first in range(0, n_vocab, WIDE):
        values = tl.load(source + first + i, mask=first + i < n_vocab, other=float("-inf"))
        is_number = is_number & (values == values).to(tl.int32)
        where = tl.where(values > best, first + i, where)
        best = tl.maximum(best, values)
    top = tl.max(best, 0)
    token = tl.min(tl.where(best == top, where, _ALL), 0)
    is_lost = (top == float("-inf")) | (tl.min(is_number, 0) == 0)
    temperature = tl.load(temperatures + row)
    if is_lost | (temperature == 0.0) | (top == float("inf")):
        tl.store(tokens + row, tl.where(is_lost, -1, token))
        return
    floor = top + temperature * ln_floor
    top_k, top_p, min_p = tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row)
    limit = tl.full([], _MOST_BITS, tl.int32)
    if (top_k > 0) | (top_p < 1.0):
        few = gathered + row * GATHERED
        n_few = tl.zeros([], tl.int32)
        for first in range(0, n_vocab, WIDE):
            values = tl.load(source + first + i, mask=first + i < n_vocab, other=float("-inf"))
            is_in = (values >= floor).to(tl.int32)
            place = n_few + tl.cumsum(is_in, 0) - 1
            tl.store(few + place, values, mask=(is_in != 0) & (place < GATHERED))
            n_few += tl.sum(is_in, 0)
        tl.debug_barrier()  # what was stored is read by other threads
        n = n_vocab
        counted = source
        if n_few <= GATHERED:
            n = n_few
            counted = few
        if (top_k > 0) & (top_k < n_few):
            limit = _smallest(
                counted, n, top, temperature, floor, limit, top_k.to(tl.float64), False, WIDE
            )
        if top_p < 1.0:
            mass = _held(counted, n, top, temperature, floor, limit, True, WIDE)
            wanted = mass * top_p.to(tl.float64)
            limit = _smallest(counted, n, top, temperature, floor, limit, wanted, True, WIDE)
    least = tl.log(min_p)
    low = tl.load(keys + row * 2).to(tl.uint32, bitcast=True)
    high = tl.load(keys + row * 2 + 1).to(tl.uint32, bitcast=True)
    best = tl.full([WIDE], float("-inf"), tl.float32)
    where = tl.zeros([WIDE], tl.int32)
    for first in range(0, n_vocab, WIDE):
        values = tl.load(source + first + i, mask=first + i < n_vocab, other=float("-inf"))
        z = (values - top) / temperature
        is_in = (values >= floor) & (z >= least)
        is_in = is_in & (_bits(values, is_in, top, temperature) <= limit)
        score = tl.where(is_in, z - _log_exponential(first + i, low, high), float("-inf"))
        where = tl.where(score > best, first + i, where)
        best = tl.maximum(best, score)
    tl.store(tokens + row, tl.min(tl.where(best == tl.max(best, 0), where, _ALL), 0))


def draw(logits: Tensor, draws: Draws) -> Tensor:
    """See Kernels."""
    k, n_vocab = logits.shape
    tokens = torch.empty(k, dtype=torch.int32, device=logits.device)
    gathered = torch.empty((k, min(GATHERED, n_vocab)), dtype=torch.float32, device=logits.device)
    draw_rows[(k,)](
        logits, draws.temperature, draws.top_k, draws.top_p, draws.min_p, draws.keys, tokens, gathered,
        n_vocab, logits.stride(0), _LN_FLOOR,
        GATHERED=gathered.shape[1], WIDE=WIDE, num_warps=16,
    )  # fmt: skip
    return tokens
