"""SlotStore: rows that own n_ctx tokens each; a fork is a copy and costs its row."""

from __future__ import annotations

from collections.abc import Sequence

from hearth_backends.kv.pool import RowStrand
from hearth_backends.kv.rows import RowStore


class SlotPool:
    """A row's tokens are its own: there is nothing to take, share or give back."""

    def __init__(self, n_tokens: int) -> None:
        self.n_free = n_tokens
        self.n_spare = n_tokens

    def take(self, n_tokens: int) -> bool:
        """See Pool: the limit of n_ctx tokens a row is the store's."""
        return True

    def give(self, n_tokens: int) -> None:
        """See Pool."""

    def share(self, strand: RowStrand, source: RowStrand, n_tokens: int) -> None:
        """See Pool."""

    def shrink(self, strand: RowStrand, n_tokens: int) -> None:
        """See Pool."""

    def retire(self, strand: RowStrand) -> None:
        """See Pool."""

    def drop(self, strand: RowStrand) -> None:
        """See Pool."""

    def tail(self, strand: RowStrand) -> tuple[int, bool]:
        """See Pool."""
        return strand.n, True

    def check(self, strands: Sequence[RowStrand], n_reserved: int) -> None:
        """See Pool: what there is to check, the store checks row by row."""


class SlotStore(RowStore):
    """Sequences in n_seq rows of n_ctx tokens each."""

    def __init__(self, n_seq: int, n_ctx: int) -> None:
        super().__init__(n_seq, n_ctx, SlotPool(n_seq * n_ctx))

    def free_tokens(self) -> int:
        """See KVStore: all that running rows have not taken."""
        return self._pool.n_spare - sum(strand.end for strand in self._strands.values())
