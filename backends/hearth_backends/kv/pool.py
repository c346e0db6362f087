"""Pool: the memory that rows are made of; and what a row of it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hearth_backends.kv.contract import SequenceView
from hearth_backends.kv.transactions import UNSEATED, Strand


class RowStrand(Strand):
    """What a row holds, or what a matched sequence will hold once it is seated."""

    __slots__ = ("busy", "leaf", "source")

    def __init__(self, seq: SequenceView) -> None:
        super().__init__(seq)
        self.source = UNSEATED  # the row that an unseated strand is pinned to
        self.busy = True  # a sequence's; otherwise idle
        self.leaf: object | None = None  # the pool's

    @property
    def n_known(self) -> int:
        """Committed tokens whose values are known, so that others may match them."""
        return min(self.n, len(self.seq.tokens))


class Pool(Protocol):
    """The memory that rows are made of, in tokens."""

    @property
    def n_free(self) -> int:
        """Tokens that no strand holds and no step has reserved."""

    @property
    def n_spare(self) -> int:
        """n_free and the tokens that only idle strands hold."""

    def take(self, n_tokens: int) -> bool:
        """Take free tokens for growth; False when there are too few."""

    def give(self, n_tokens: int) -> None:
        """Give back tokens that were taken and not kept."""

    def share(self, strand: RowStrand, source: RowStrand, n_tokens: int) -> None:
        """A new busy strand holds the first tokens of a source."""

    def shrink(self, strand: RowStrand, n_tokens: int) -> None:
        """The strand keeps its first tokens (called before its `n` changes)."""

    def retire(self, strand: RowStrand) -> None:
        """A busy strand becomes idle."""

    def drop(self, strand: RowStrand) -> None:
        """The strand holds nothing any more."""

    def tail(self, strand: RowStrand) -> tuple[int, bool]:
        """Tokens at the end of an idle strand with the same holders, and whether it is their only one."""

    def check(self, strands: Sequence[RowStrand], n_reserved: int) -> None:
        """Raise AssertionError unless these strands and reservations account for every token."""
