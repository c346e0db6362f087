"""One tile of attention, as decode and prefill share it: scores in powers of two, and the running softmax."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
NOTHING = tl.constexpr(-1.0e30)
"""Where the running maximum begins: finite, so that a row that has seen nothing yet stays a number."""


@triton.jit
def scores(q, k, scale, softcap, HAS_SOFTCAP: tl.constexpr, PRECISION: tl.constexpr):
    """q [rows, D] times k [D, tokens], scaled and capped, in units of ln 2."""
    s = tl.dot(q, k, input_precision=PRECISION) * scale
    if HAS_SOFTCAP:
        turned = tl.exp2(s * (2.0 * LOG2E / softcap))
        s = softcap * (1.0 - 2.0 / (turned + 1.0))
    return s * LOG2E


@triton.jit
def absorb(acc, top, total, s, v, PRECISION: tl.constexpr):
    """Takes a tile's scores [rows, tokens] and values [tokens, D] into the running softmax."""
    new_top = tl.maximum(top, tl.max(s, 1))
    shrink = tl.exp2(top - new_top)
    p = tl.exp2(s - new_top[:, None])
    acc = acc * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
    return acc, new_top, total * shrink + tl.sum(p, 1)
