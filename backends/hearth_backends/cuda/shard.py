"""Shard: which part of each matrix one device of a group holds; pure.

Queries, keys, values, gates and ups are cut by outputs, so that each device has whole heads; the matrices
behind them are cut by inputs, and their products added up over the group. Embedding, norms and head are
everybody's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hearth_backends.base import Support
from hearth_backends.weights.matrix import Heads, Matrix, Part
from hearth_backends.weights.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Shard:
    """Device `rank` of `size`."""

    rank: int = 0
    size: int = 1

    def support(self, model: ModelSpec) -> Support:
        """Whether the model can be cut so."""
        for what, n in (
            ("heads", model.n_heads),
            ("heads of keys and values", model.n_kv_heads),
            ("inputs of an MLP", model.d_ff),
        ):
            if n % self.size:
                return Support(False, f"{n} {what} cannot be shared by {self.size} devices")
        return Support(True)

    def outputs(self, matrix: Matrix) -> Matrix:
        """An equal share of each of its parts."""
        if self.size == 1:
            return matrix
        return replace(matrix, parts=tuple(map(self._part, matrix.parts)))

    def _part(self, part: Part) -> Part:
        n_rows = part.n_rows // self.size
        heads = part.heads
        if heads is not None:
            heads = Heads(heads.n // self.size, heads.dim, heads.padded, heads.rotated)
        return Part(part.tensor, n_rows, part.first + self.rank * n_rows, heads)

    def inputs(self, matrix: Matrix) -> slice | None:
        """Its columns that this device multiplies by; None: all."""
        if self.size == 1:
            return None
        n = matrix.n_in // self.size
        return slice(self.rank * n, (self.rank + 1) * n)


WHOLE = Shard()
"""Of a device that shares with nobody."""
