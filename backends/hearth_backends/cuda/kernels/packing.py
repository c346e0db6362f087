"""Int4: a matrix of 4-bit integers as kernels read it, and the way there and back.

Inputs are cut into blocks of 128. A word of 32 bits holds eight codes of one output, 16 inputs apart:
bits 4i to 4i + 3 of word j are input 16i + j of the block. So a kernel that takes one code out of 16
words in a row has 16 inputs in a row, all of one group, and needs no shuffle; and the words of a block
lie together for all outputs, so that whatever part of them it takes is contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_INPUTS = 128
WORDS = 16
"""In one block of one output."""
SYMMETRIC_ZERO = 8
"""The code of zero where a matrix has no zeros of its own."""
_CODES_AT_ONCE = 1 << 24  # which take eight times their bytes while they are put together


@dataclass(frozen=True, slots=True)
class Int4:
    """(code - zero) * scale; inputs beyond n_in, up to the end of the last block, have scale 0."""

    words: Tensor  # [blocks, n_out, WORDS] int32
    scales: Tensor  # [blocks * 128 / group, n_out], of the type that is computed in
    zeros: Tensor | None  # likewise; None: SYMMETRIC_ZERO
    n_in: int
    group: int  # inputs with one scale: 32, 64 or 128

    @property
    def n_out(self) -> int:
        return self.words.shape[1]

    @property
    def n_bytes(self) -> int:
        """On its device."""
        zeros = 0 if self.zeros is None else self.zeros.nbytes
        return self.words.nbytes + self.scales.nbytes + zeros


def int4_of(packed: Tensor, scales: Tensor, zeros: Tensor | None) -> Int4:
    """From the form of `weights.reader.Groups`: packed [n_out, n_in / 2] uint8, two neighbours to a byte,
    the first in its low half; scales and zeros [n_out, groups].
    """
    n_out, n_in = packed.shape[0], 2 * packed.shape[1]
    group = n_in // scales.shape[1]
    n_blocks = -(-n_in // BLOCK_INPUTS)
    words = torch.empty((n_blocks, n_out, WORDS), dtype=torch.int32, device=packed.device)
    step = max(1, _CODES_AT_ONCE // n_in)
    for first in range(0, n_out, step):
        octets = packed[first : first + step]
        codes = torch.stack([octets & 15, octets >> 4], dim=2).flatten(1)
        words[:, first : first + step] = pack_words(codes)
    spare = (n_blocks * BLOCK_INPUTS - n_in) // group

    def laid_out(values: Tensor) -> Tensor:
        return torch.nn.functional.pad(values, (0, spare)).T.to(scales.dtype).contiguous()

    return Int4(
        words=words,
        scales=laid_out(scales),
        zeros=None if zeros is None else laid_out(zeros),
        n_in=n_in,
        group=group,
    )


def pack_words(codes: Tensor) -> Tensor:
    """Codes [rows, n_in] uint8 to words [blocks, rows, WORDS] int32."""
    n_rows, n_in = codes.shape
    spare = -n_in % BLOCK_INPUTS
    padded = torch.nn.functional.pad(codes, (0, spare), value=SYMMETRIC_ZERO)
    parts = padded.view(n_rows, -1, BLOCK_INPUTS // WORDS, WORDS).to(torch.int32)
    words = torch.zeros_like(parts[:, :, 0])
    for i in range(BLOCK_INPUTS // WORDS):
        words |= parts[:, :, i] << (4 * i)
    return words.transpose(0, 1).contiguous()


def unpack_codes(words: Tensor) -> Tensor:
    """Words [blocks, rows, WORDS] to codes [rows, blocks * 128] uint8."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=words.device)
    codes = (words[:, :, None, :] >> shifts[:, None]) & 15
    return codes.transpose(0, 1).flatten(1).to(torch.uint8)


def dequantized(matrix: Int4, dtype: torch.dtype) -> Tensor:
    """[n_out, n_in]."""
    zeros: Tensor | float = (
        SYMMETRIC_ZERO if matrix.zeros is None else _spread(matrix.zeros, matrix)
    )
    weights = (unpack_codes(matrix.words).float() - zeros) * _spread(matrix.scales, matrix).float()
    return weights[:, : matrix.n_in].to(dtype)


def _spread(values: Tensor, matrix: Int4) -> Tensor:
    """One for each group to one for each input [n_out, blocks * 128]."""
    return values.T.repeat_interleave(matrix.group, dim=1)
