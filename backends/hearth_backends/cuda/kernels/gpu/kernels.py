"""TritonKernels: the kernels of GPUs."""

from __future__ import annotations

from torch import Tensor

from hearth_backends.cuda.kernels.contract import Attention, LayerMemory, StepRows
from hearth_backends.cuda.kernels.gpu.activate import gated
from hearth_backends.cuda.kernels.gpu.decode import attend_decode
from hearth_backends.cuda.kernels.gpu.draw import draw
from hearth_backends.cuda.kernels.gpu.eight_bits import eight_bit_linear
from hearth_backends.cuda.kernels.gpu.int4 import int4_linear
from hearth_backends.cuda.kernels.gpu.norm import add_rms_norm, rms_norm
from hearth_backends.cuda.kernels.gpu.prefill import attend_ragged
from hearth_backends.cuda.kernels.gpu.prepare import prepare
from hearth_backends.cuda.kernels.gpu.store import store_qkv


class TritonKernels:
    """See Kernels."""

    prepare = staticmethod(prepare)
    rms_norm = staticmethod(rms_norm)
    add_rms_norm = staticmethod(add_rms_norm)
    gated = staticmethod(gated)
    store_qkv = staticmethod(store_qkv)
    int4_linear = staticmethod(int4_linear)
    eight_bit_linear = staticmethod(eight_bit_linear)
    draw = staticmethod(draw)

    def attend(
        self, q: Tensor, memory: LayerMemory, rows: StepRows, how: Attention, out: Tensor
    ) -> None:
        """See Kernels."""
        attend = attend_decode if rows.is_decode else attend_ragged
        attend(q, memory, rows, how, out)
