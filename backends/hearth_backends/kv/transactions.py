"""TransactionalStore: reservations, commits and rollbacks, as every store does them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from hearth_backends.kv.contract import (
    BLOCK_TOKENS,
    KVOp,
    Placement,
    Reservation,
    SequenceView,
    Want,
)

UNSEATED = -1
"""The row of a strand that has none yet."""

_NO_OPS: tuple[KVOp, ...] = ()


class Strand:
    """What a store holds of one sequence; stores extend it.

    `n` tokens are committed, `end - n` more are reserved by steps in flight; the strand may grow to
    `room` tokens without asking, and reaches its next block's end at `mark`.
    """

    __slots__ = ("end", "hashes", "mark", "n", "placement", "room", "row", "seq")

    def __init__(self, seq: SequenceView, n: int = 0) -> None:
        self.seq = seq
        self.n = n
        self.end = n
        self.room = 0
        self.mark = next_mark(n)
        self.row = UNSEATED
        self.placement = NOWHERE
        self.hashes: list[bytes] = []  # of the blocks that the store has indexed


NOWHERE = Placement(UNSEATED)

S = TypeVar("S", bound=Strand)


def next_mark(n: int) -> int:
    """The first block boundary after n tokens."""
    return (n // BLOCK_TOKENS + 1) * BLOCK_TOKENS


class TransactionalStore(ABC, Generic[S]):
    """The part of a KVStore that is the same whatever memory it counts.

    One-token wants that stay within their strands' room touch nothing but integers.
    """

    def __init__(self, n_ctx: int) -> None:
        self.n_ctx = n_ctx
        self._strands: dict[int, S] = {}  # by sequence id
        self._pending: list[KVOp] = []  # to travel with the next reservation
        self._flying: deque[tuple[Reservation, list[S]]] = deque()
        self._hear_eviction: Callable[[bytes], None] | None = None

    # --- what a kind of memory decides ---------------------------------------------------------

    @abstractmethod
    def _take(self, n_tokens: int) -> bool:
        """Take tokens from those that are free; False, and none, when there are too few."""

    @abstractmethod
    def _give(self, n_tokens: int) -> None:
        """Give back tokens that were taken."""

    @abstractmethod
    def _make_ready(self, wants: Sequence[Want]) -> list[S] | None:
        """Seat the sequences, make room for their wants and take it; or None."""

    @abstractmethod
    def _complete(self, strand: S) -> None:
        """The strand has come to a block's end, or beyond it."""

    def _retired(self, ops: tuple[KVOp, ...]) -> None:
        """Operations that a stage has certainly applied."""

    def _shortened(self, strand: S) -> None:
        """The strand's `end` has gone down."""

    def _scrub(self, strand: S) -> KVOp | None:
        """What removes tokens that may have been written after the strand's end."""
        return None

    def _again(self, ops: tuple[KVOp, ...], strands: list[S]) -> list[KVOp]:
        """Operations to queue again when the step of these strands failed."""
        return list(ops)

    def locate(self, block_hashes: Sequence[bytes]) -> tuple[Placement, ...] | None:
        """See KVStore: nothing can be exported, unless a kind of memory says otherwise."""
        return None

    def parting(self, seq: SequenceView, n_tokens: int) -> int | None:
        """See KVStore: it is no matter, unless a kind of memory says otherwise."""
        return None

    def watch_evictions(self, hear: Callable[[bytes], None]) -> None:
        """See KVStore."""
        self._hear_eviction = hear

    # --- the transaction -----------------------------------------------------------------------

    def reserve(self, wants: Sequence[Want]) -> Reservation | None:
        """See KVStore."""
        strands = self._ready(wants)
        if strands is None:
            strands = self._make_ready(wants)
            if strands is None:
                return None
        for strand, want in zip(strands, wants, strict=True):
            strand.end += want[1]
        ops = _NO_OPS
        if self._pending:
            ops = tuple(self._pending)
            self._pending = []
        reservation = Reservation(tuple(wants), ops, tuple([s.placement for s in strands]))
        self._flying.append((reservation, strands))
        return reservation

    def _ready(self, wants: Sequence[Want]) -> list[S] | None:
        """The strands of wants that need nothing but tokens, and those are taken; None otherwise."""
        strands: list[S] = []
        total = 0
        find = self._strands.get
        for seq, n_tokens in wants:
            strand = find(seq.id)
            if strand is None or strand.end + n_tokens > strand.room:
                return None
            total += n_tokens
            strands.append(strand)
        return strands if self._take(total) else None

    def commit(self, reservation: Reservation, computed: Mapping[int, int]) -> None:
        """See KVStore."""
        if not self._flying or self._flying[0][0] is not reservation:
            raise ValueError("a reservation was committed out of order")
        strands = self._flying.popleft()[1]
        if reservation.ops:
            self._retired(reservation.ops)
        if computed:
            self._commit_some(strands, reservation.wants, computed)
            return
        for strand, want in zip(strands, reservation.wants, strict=True):
            strand.n = n = strand.n + want[1]
            if n >= strand.mark:
                self._complete(strand)

    def _commit_some(
        self, strands: Iterable[S], wants: tuple[Want, ...], computed: Mapping[int, int]
    ) -> None:
        for strand, (seq, n_tokens) in zip(strands, wants, strict=True):
            n_computed = computed.get(seq.id, n_tokens)
            n_unused = n_tokens - n_computed
            strand.n += n_computed
            if strand.n >= strand.mark:
                self._complete(strand)
            if n_unused:
                if n_unused < 0 or strand.end - n_unused != strand.n:
                    raise ValueError(f"sequence {seq.id}: {n_computed} of {n_tokens} computed")
                strand.end -= n_unused
                self._give(n_unused)
                self._shortened(strand)
                op = self._scrub(strand)
                if op is not None:
                    self._pending.append(op)

    def rollback(self, reservation: Reservation) -> None:
        """See KVStore."""
        strands = self._undo(reservation)
        ops = self._again(reservation.ops, strands)
        for strand in strands:
            op = self._scrub(strand)
            if op is not None and op not in ops:
                ops.append(op)
        self._pending[:0] = ops

    def withdraw(self, reservation: Reservation) -> None:
        """See KVStore."""
        self._undo(reservation)
        self._pending[:0] = reservation.ops

    def _undo(self, reservation: Reservation) -> list[S]:
        if not self._flying or self._flying[-1][0] is not reservation:
            raise ValueError("a reservation was undone out of order")
        strands = self._flying.pop()[1]
        for strand, want in zip(strands, reservation.wants, strict=True):
            strand.end -= want[1]
            self._give(want[1])
            self._shortened(strand)
        return strands

    def committed(self, seq: SequenceView) -> int:
        """See KVStore."""
        strand = self._strands.get(seq.id)
        return 0 if strand is None else strand.n

    def _at_rest(self, seq: SequenceView) -> S | None:
        """The strand of a sequence that no step in flight names; None when there is none."""
        strand = self._strands.get(seq.id)
        if strand is not None and strand.end != strand.n:
            raise ValueError(f"sequence {seq.id} is in a step in flight")
        return strand

    def _check_strands(self) -> None:
        """Raise AssertionError unless strands and reservations in flight agree."""
        reserved = dict.fromkeys(self._strands, 0)
        for reservation, strands in self._flying:
            for strand, want in zip(strands, reservation.wants, strict=True):
                assert self._strands[want.seq.id] is strand, "a step names a sequence that left"
                reserved[want.seq.id] += want.n_tokens
        for key, strand in self._strands.items():
            assert strand.seq.id == key
            assert strand.end - strand.n == reserved[key], "reserved tokens do not add up"
            assert len(strand.hashes) * BLOCK_TOKENS <= strand.n < strand.mark
            if strand.row != UNSEATED:
                assert strand.placement.row == strand.row
                assert strand.end <= strand.room <= self.n_ctx
