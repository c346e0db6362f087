"""TritonKernels: the kernels of GPUs."""

from __future__ import annotations

from hearth_backends.cuda.kernels.gpu.activate import gelu_mul, silu_mul
from hearth_backends.cuda.kernels.gpu.decode import attend_decode
from hearth_backends.cuda.kernels.gpu.draw import draw
from hearth_backends.cuda.kernels.gpu.eight_bits import fp8_linear
from hearth_backends.cuda.kernels.gpu.int4 import int4_linear
from hearth_backends.cuda.kernels.gpu.norm import add_rms_norm, rms_norm
from hearth_backends.cuda.kernels.gpu.prefill import attend
from hearth_backends.cuda.kernels.gpu.prepare import prepare
from hearth_backends.cuda.kernels.gpu.store import store_qkv


class TritonKernels:
    """See Kernels."""

    prepare = staticmethod(prepare)
    rms_norm = staticmethod(rms_norm)
    add_rms_norm = staticmethod(add_rms_norm)
    silu_mul = staticmethod(silu_mul)
    gelu_mul = staticmethod(gelu_mul)
    store_qkv = staticmethod(store_qkv)
    attend = staticmethod(attend)
    attend_decode = staticmethod(attend_decode)
    int4_linear = staticmethod(int4_linear)
    fp8_linear = staticmethod(fp8_linear)
    draw = staticmethod(draw)
