"""Shard: which part of each matrix one device of a group holds; pure.

Queries, keys, values, gates and ups are cut by outputs, so that each device has whole heads; the matrices
behind them are cut by inputs, and their products added up over the group. Embedding, norms and head are
everybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hearth_backends.base import DeviceInfo, Support
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
LIKE = 0.9
"""Devices whose memories differ by less are equal: drivers keep a little of some cards."""


def group_support(model: ModelSpec, devices: Sequence[DeviceInfo]) -> Support:
    """Whether these devices, several, can share every layer of the model; no with the reason in words."""
    first, *others = devices
    names = [device.name for device in devices]
    if len(set(names)) < len(names):
        return Support(False, f"a group has each device once, not {', '.join(names)}")
    for other in others:
        if not _alike(first, other):
            return Support(
                False,
                f"devices of a group are equal: {first.name} is {_words(first)}, "
                f"{other.name} {_words(other)}; `stages` cut a model for unequal ones",
            )
    return Shard(0, len(devices)).support(model)


def _alike(one: DeviceInfo, other: DeviceInfo) -> bool:
    if (one.kind, one.vendor, one.description) != (other.kind, other.vendor, other.description):
        return False
    sizes = sorted((one.total_bytes or 0, other.total_bytes or 0))
    return sizes[0] >= LIKE * sizes[1]


def _words(device: DeviceInfo) -> str:
    if device.total_bytes is None:
        return device.description
    return f"{device.description} with {device.total_bytes / (1 << 30):.1f} GiB"
