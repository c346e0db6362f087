"""Kernels: what the decoder and the sampler need computed beside products by floating point matrices.

`reference` does it in plain torch on any device, and is what every other implementation is tested
against. All tensors of one call are on one device; numbers of rows and sequences come from shapes, so
nothing here reads a value back to the host on a GPU. Integers are int32. Symbols: n rows, s sequences,
Hq and Hkv heads, D dimensions of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from hearth_backends.cuda.kernels.packing import Int4


@dataclass(frozen=True, slots=True)
class Draws:
    """How k rows are drawn, as `hearth_backends.sampling` defines it; all on the device."""

    temperature: Tensor  # [k] float32; 0: greedy
    top_k: Tensor  # [k] int32; 0: off
    top_p: Tensor  # [k] float32; 1: off
    min_p: Tensor  # [k] float32; 0: off
    keys: Tensor  # [k, 2] int32: bits of the noise's key, low half first


class Prepared(NamedTuple):
    """What a step needs to know of each row and sequence."""

    tokens: Tensor  # [n]; none is negative
    positions: Tensor  # [n]
    slots: Tensor  # [n] block * block tokens + place in it
    block_tables: Tensor  # [s, blocks]


class Kernels(Protocol):
    """One implementation, chosen by device."""

    def prepare(
        self,
        tokens: Tensor,  # [n] -1: the last sample of the row's sequence
        row_starts: Tensor,  # [s + 1] rows of sequence i: [row_starts[i], row_starts[i + 1])
        lengths: Tensor,  # [s] tokens of each sequence, these rows included; 0: nobody's
        seats: Tensor,  # [s] the persistent row of each sequence
        tables: Tensor,  # [seats, columns] block tables that stay on the device
        last: Tensor,  # [seats] last samples, which stay there too
        n_columns: int,  # of the tables that are wanted
    ) -> Prepared:
        """A step's rows from the persistent ones; a row of nobody has position 0 of its seat's table.

        A last sample of -1 (a row that allowed no token) counts as token 0.
        """

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float, unit_offset: bool) -> Tensor:
        """x [..., d] over its root mean square, times the weight [d] (plus one, where unit_offset says so)."""

    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor, eps: float, unit_offset: bool
    ) -> Tensor:
        """The residual [n, d] grows by x in place; returns its norm."""

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of [n, 2 * f], gate first; [n, f]."""

    def gelu_mul(self, gate_up: Tensor) -> Tensor:
        """The same with GELU, approximated by tanh."""

    def store_qkv(
        self,
        q: Tensor,  # [n, Hq, D], changed in place; rows may lie apart (a view of the joint product)
        k: Tensor,  # [n, Hkv, D]
        v: Tensor,  # [n, Hkv, D]
        q_norm: Tensor | None,  # [D]
        k_norm: Tensor | None,  # [D]
        eps: float,
        unit_offset: bool,
        cos: Tensor,  # [n_ctx, rotated / 2] float32; the first `rotated` dimensions turn
        sin: Tensor,
        positions: Tensor,  # [n]
        slots: Tensor,  # [n] block * block tokens + place in it
        k_pool: Tensor,  # [n_blocks, block tokens, Hkv, D], of a type of its own
        v_pool: Tensor,
    ) -> None:
        """Norm queries and keys where there are weights for it, turn them, and store keys and values.

        Dimension i turns together with dimension i + rotated / 2. What a pool of 8-bit floats cannot
        hold becomes its largest number.
        """

    def attend(
        self,
        q: Tensor,  # [n, Hq, D]; rows may lie apart
        k_pool: Tensor,
        v_pool: Tensor,
        block_tables: Tensor,  # [s, blocks]
        row_starts: Tensor,  # [s + 1]
        lengths: Tensor,  # [s] tokens of each sequence, the rows of this step included
        scale: float,
        window: int | None,  # tokens that a row attends to, itself included
        softcap: float | None,
        sinks: Tensor | None,  # [Hq] float32: a logit that takes its share and gives nothing
        out: Tensor,  # [n, Hq, D]
    ) -> None:
        """Causal attention of each sequence's rows, its last ones; zeros where a length is 0."""

    def attend_decode(
        self,
        q: Tensor,  # [s, Hq, D]; rows may lie apart
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
        """The same with one row for each sequence; safe to record (its grid depends on shapes alone)."""

    def int4_linear(self, x: Tensor, matrix: Int4) -> Tensor:
        """x [n, n_in] times a matrix of 4-bit integers [n, n_out], in the type of x."""

    def fp8_linear(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """x [n, n_in] times 8-bit floats, or integers, [n_out, n_in] with a float32 scale for each output.

        Activations stay as they are; made for few rows. Returns [n, n_out] in the type of x.
        """

    def draw(self, logits: Tensor, draws: Draws) -> Tensor:
        """One token for each row of logits [k, n_vocab] float32, whatever was to be adjusted already is; int32 [k].

        -1 where nothing finite is left, or the largest logit is not a number.
        """
