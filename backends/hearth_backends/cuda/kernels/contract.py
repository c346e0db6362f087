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


class StepRows(NamedTuple):
    """Where n ragged rows of s sequences are."""

    tokens: Tensor  # [n]; none is negative
    positions: Tensor  # [n]
    slots: Tensor  # [n] block * block tokens + place in it
    block_tables: Tensor  # [s, blocks]
    row_starts: Tensor  # [s + 1] rows of sequence i: [row_starts[i], row_starts[i + 1])
    lengths: Tensor  # [s] tokens of each sequence, these rows included; 0: nobody's

    @property
    def is_decode(self) -> bool:
        """Whether each sequence has one row."""
        return len(self.positions) == len(self.lengths)


class LayerMemory(NamedTuple):
    """Keys and values of one layer, of a type of their own."""

    keys: Tensor  # [n_blocks, block tokens, Hkv, D]
    values: Tensor


class Rope(NamedTuple):
    """Cosines and sines of every position [n_ctx, rotated / 2], float32, times the rope's magnitude."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Attention:
    """How much of each token a row takes in."""

    scale: float  # of query times key
    window: int | None = None  # tokens that a row attends to, itself included; None: all before it
    softcap: float | None = None
    sinks: Tensor | None = None  # [Hq] float32: a logit that takes its share and gives nothing


@dataclass(frozen=True, slots=True)
class Draws:
    """How k rows are drawn, as `hearth_backends.sampling` defines it; all on the device."""

    temperature: Tensor  # [k] float32; 0: greedy
    top_k: Tensor  # [k] int32; 0: off
    top_p: Tensor  # [k] float32; 1: off
    min_p: Tensor  # [k] float32; 0: off
    keys: Tensor  # [k, 2] int32: bits of the noise's key, low half first


class Kernels(Protocol):
    """One implementation, chosen by device."""

    def prepare(
        self,
        tokens: Tensor,  # [n] -1: the last sample of the row's sequence
        row_starts: Tensor,
        lengths: Tensor,
        seats: Tensor,  # [s] the persistent row of each sequence
        tables: Tensor,  # [seats, columns] block tables that stay on the device
        last: Tensor,  # [seats] last samples, which stay there too
        n_columns: int,  # of the tables that are wanted
    ) -> StepRows:
        """A step's rows from the persistent ones; a row of nobody has position 0 of its seat's table.

        A last sample of -1 (a row that allowed no token) counts as token 0.
        """

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """x [..., d] over its root mean square, times the weight [d] in float32."""

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The residual [n, d] grows by x in place; returns its norm."""

    def gated(self, gate_up: Tensor, *, gelu: bool) -> Tensor:
        """silu(gate) * up of [n, 2 * f], gate first; [n, f]. `gelu`: that, approximated by tanh, instead of silu."""

    def store_qkv(
        self,
        q: Tensor,  # [n, Hq, D], changed in place; rows may lie apart (a view of the joint product)
        k: Tensor,  # [n, Hkv, D]
        v: Tensor,  # [n, Hkv, D]
        q_norm: Tensor | None,  # [D] float32
        k_norm: Tensor | None,
        eps: float,
        rope: Rope,
        rows: StepRows,
        memory: LayerMemory,
    ) -> None:
        """Norm queries and keys where there are weights for it, turn them, and store keys and values.

        Of what turns, dimension i turns together with dimension i + rotated / 2. What memory of 8-bit
        floats cannot hold becomes its largest number.
        """

    def attend(
        self, q: Tensor, memory: LayerMemory, rows: StepRows, how: Attention, out: Tensor
    ) -> None:
        """Causal attention of each sequence's rows, its last ones, into out [n, Hq, D]; zeros where a length is 0.

        Rows of q [n, Hq, D] may lie apart. Where each sequence has one row it is safe to record: what is
        launched depends on shapes alone.
        """

    def int4_linear(self, x: Tensor, matrix: Int4) -> Tensor:
        """x [n, n_in] times a matrix of 4-bit integers [n, n_out], in the type of x."""

    def eight_bit_linear(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """x [n, n_in] times 8-bit integers, or floats, [n_out, n_in] with a float32 scale for each output.

        Activations stay as they are; made for few rows. Returns [n, n_out] in the type of x.
        """

    def draw(self, logits: Tensor, draws: Draws) -> Tensor:
        """One token for each row of logits [k, n_vocab] float32, whatever was to be adjusted already is; int32 [k].

        -1 where nothing finite is left, or the largest logit is not a number.
        """
