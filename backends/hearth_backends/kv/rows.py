"""RowStore: sequences that live in rows, and prefixes that stay in rows nobody uses.

A row is empty, idle (it keeps the prefix of a sequence that left, until room is needed) or running.
A matched sequence is pinned to its source row and gets a row of its own with its first reservation:
the source itself where that is idle and nobody else needs what would be cut off, else a fork of it.

Operations may be applied twice (a step that failed is planned again), so what a FORK reads must
outlive the reservation that carries it: its source keeps a pin until that reservation is committed,
and no row is cut below its pins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappush
from itertools import islice

from hearth_backends.kv.contract import BLOCK_TOKENS, KVOp, OpKind, Placement, SequenceView, Want
from hearth_backends.kv.pool import Pool, RowStrand
from hearth_backends.kv.transactions import UNSEATED, TransactionalStore, next_mark

_MAX_CANDIDATES = 32  # rows with the same blocks of which the best is sought


class RowStore(TransactionalStore[RowStrand]):
    """A KVStore over rows; the pool says what tokens cost and which are shared."""

    def __init__(self, n_seq: int, n_ctx: int, pool: Pool) -> None:
        super().__init__(n_ctx)
        self._pool = pool
        self._rows: list[RowStrand | None] = [None] * n_seq
        self._empty = list(range(n_seq))  # a heap: low rows first
        self._idle: dict[int, RowStrand] = {}  # by row, the least recently used first
        self._pins: list[list[int]] = [[] for _ in range(n_seq)]  # prefix lengths to be kept
        self._index: dict[bytes, set[int]] = {}  # block hash -> rows that hold it
        self._placements = [Placement(row) for row in range(n_seq)]
        heapify(self._empty)

    # --- matching ------------------------------------------------------------------------------

    def match(self, seq: SequenceView, limit: int | None = None) -> int:
        """See KVStore."""
        old = self._strands.get(seq.id)
        if old is not None:
            self._let_go(old)
        strand = self._strands[seq.id] = RowStrand(seq)
        row, n_tokens = self._longest(seq, limit)
        if n_tokens:
            self._pin(strand, row, n_tokens)
            if row in self._idle:
                self._idle[row] = self._idle.pop(row)
        return strand.n

    def _longest(self, seq: SequenceView, limit: int | None) -> tuple[int, int]:
        """The row that holds the longest prefix of a sequence, and the prefix's length."""
        tokens = seq.tokens
        most = len(tokens) - 1 if limit is None else min(limit, len(tokens) - 1)
        if most < 1 or not seq.shares:
            return UNSEATED, 0
        n_blocks = 0
        rows: Iterable[int] = ()
        for block_hash in islice(seq.block_hashes, -(-most // BLOCK_TOKENS)):
            found = self._index.get(block_hash)
            if not found:
                break
            rows = found
            n_blocks += 1
        best = (0, False, 0)
        best_row = UNSEATED
        for row in islice(rows, _MAX_CANDIDATES):
            strand = self._row(row)
            n = _common(strand, tokens, n_blocks * BLOCK_TOKENS, most)
            if (n, not strand.busy, -strand.n) > best:
                best, best_row = (n, not strand.busy, -strand.n), row
        return best_row, best[0]

    def _pin(self, strand: RowStrand, row: int, n_tokens: int) -> None:
        """An unseated strand holds the first tokens of a row, and will start from there."""
        self._pool.share(strand, self._row(row), n_tokens)
        self._pins[row].append(n_tokens)
        strand.source = row
        strand.n = strand.end = n_tokens
        strand.mark = next_mark(n_tokens)

    def _let_go(self, strand: RowStrand) -> None:
        """Undo what `match` did."""
        if strand.row != UNSEATED:
            raise ValueError(f"sequence {strand.seq.id} is matched again without a release")
        if strand.source != UNSEATED:
            self._pins[strand.source].remove(strand.n)
            self._pool.drop(strand)

    def locate(self, block_hashes: Sequence[bytes]) -> tuple[Placement, ...] | None:
        """See KVStore; a row that is still to be forked cannot be read."""
        if not block_hashes:
            return None
        ops = [op for reservation, _ in self._flying for op in reservation.ops] + self._pending
        forked = {op.dst for op in ops if op.kind is OpKind.FORK}
        rows = self._index.get(block_hashes[-1], set()) - forked
        if not rows:
            return None
        return (self._placements[min(rows, key=lambda row: self._row(row).n)],)

    def _tell_leaving(self, strand: RowStrand) -> None:
        """The blocks of an idle row are about to go, or the last of them."""
        if self._hear_eviction is not None and strand.hashes:
            self._hear_eviction(strand.hashes[-1])

    # --- room ----------------------------------------------------------------------------------

    def _take(self, n_tokens: int) -> bool:
        return self._pool.take(n_tokens)

    def _give(self, n_tokens: int) -> None:
        self._pool.give(n_tokens)

    def _make_ready(self, wants: Sequence[Want]) -> list[RowStrand] | None:
        strands = [self._strands.get(seq.id) or RowStrand(seq) for seq, _ in wants]
        total = sum(want.n_tokens for want in wants)
        for strand, want in zip(strands, wants, strict=True):
            if strand.end + want.n_tokens > self.n_ctx:
                return None
        if total > self._pool.n_spare:
            return None
        seats = self._choose_rows([strand for strand in strands if strand.row == UNSEATED])
        if seats is None:
            return None
        for strand, row in seats:
            self._seat(strand, row)
        self._evict(total)
        return strands if self._pool.take(total) else None

    def _choose_rows(self, strands: list[RowStrand]) -> list[tuple[RowStrand, int]] | None:
        """A row for each strand, changing nothing; None when there are too few.

        The shortest prefixes choose first, so that of several strands with one source the last can
        stay in it.
        """
        taken: set[int] = set()
        seats: list[tuple[RowStrand, int]] = []
        empty = iter(sorted(self._empty))
        for strand in sorted(strands, key=lambda s: s.n):
            source = self._idle.get(strand.source)
            if strand.source in taken or max(self._pins[strand.source], default=0) > strand.n:
                source = None
            if source is not None and source.n == strand.n:
                row = strand.source
            else:
                row = next(empty, UNSEATED)
                if row == UNSEATED:
                    row = self._least_lost(strand, source, taken)
                if row == UNSEATED:
                    return None
            taken.add(row)
            seats.append((strand, row))
        return seats

    def _least_lost(self, strand: RowStrand, source: RowStrand | None, taken: set[int]) -> int:
        """The idle row to be given up: the least recently used, or the strand's own source where that
        loses less, being cut to what the strand needs of it (None: others need more of it)."""
        row = self._least_used(taken)
        if source is None or (row != UNSEATED and self._row(row).n < source.n - strand.n):
            return row
        return strand.source

    def _least_used(self, taken: set[int]) -> int:
        for row in self._idle:
            if row not in taken and not self._pins[row]:
                return row
        return UNSEATED

    def _seat(self, strand: RowStrand, row: int) -> None:
        """Give a strand its row, and queue what brings its prefix there."""
        source, strand.source = strand.source, UNSEATED
        if row in self._idle and self._row(row).n > (strand.n if row == source else 0):
            self._tell_leaving(self._row(row))
        if row == source:
            old = self._idle.pop(row)
            self._pins[row].remove(strand.n)
            self._unindex(old, 0)
            self._pool.drop(old)
            if old.n > strand.n:
                self._queue(OpKind.TRUNCATE, row, row, strand.n)
        else:
            if self._rows[row] is not None:
                self._clear(row)
            self._empty.remove(row)
            heapify(self._empty)
            if source != UNSEATED:
                self._queue(OpKind.FORK, source, row, strand.n)
        self._strands[strand.seq.id] = strand
        self._rows[row] = strand
        strand.row = row
        strand.placement = self._placements[row]
        strand.room = self.n_ctx
        self._enter(strand)

    def _evict(self, n_tokens: int) -> None:
        """Cut idle rows, the least used first and from their ends, until so many tokens are free."""
        progress = True
        while progress and self._pool.n_free < n_tokens:
            progress = False  # clearing one row may unpin another
            for row, strand in list(self._idle.items()):
                while self._pool.n_free < n_tokens and strand.n > max(self._pins[row], default=0):
                    self._cut_back(row, strand, n_tokens - self._pool.n_free)
                    progress = True
                    if row not in self._idle:
                        break

    def _cut_back(self, row: int, strand: RowStrand, n_short: int) -> None:
        """Cut blocks off an idle row's end: for so many tokens, or what ends where others go on."""
        self._tell_leaving(strand)
        size, is_own = self._pool.tail(strand)
        n = strand.n - (min(size, n_short) if is_own else size)
        n = max(n - n % BLOCK_TOKENS, *self._pins[row], 0)
        if n:
            self._cut(strand, n)
        else:
            self._clear(row)

    def free_tokens(self) -> int:
        """See KVStore."""
        return self._pool.n_spare

    def can_admit(self) -> bool:
        """See KVStore."""
        n_open = len(self._empty) + sum(not self._pins[row] for row in self._idle)
        n_owed = 0
        heirs: set[int] = set()  # idle sources that one of their strands will take over
        for strand in self._strands.values():
            if strand.row == UNSEATED:
                source = strand.source
                is_heir = source in self._idle and strand.n >= max(self._pins[source])
                if is_heir and source not in heirs:
                    heirs.add(source)
                else:
                    n_owed += 1
        return n_open > n_owed

    # --- leaving -------------------------------------------------------------------------------

    def truncate(self, seq: SequenceView, n_tokens: int) -> None:
        """See KVStore."""
        strand = self._at_rest(seq)
        if strand is None or n_tokens >= strand.n:
            return
        if strand.row == UNSEATED:
            self._let_go(strand)
            self._start_over(seq, strand.source, n_tokens)
        elif n_tokens < max(self._pins[strand.row], default=0):
            self._move_off(strand, n_tokens)
        else:
            self._cut(strand, n_tokens)

    def _move_off(self, strand: RowStrand, n_tokens: int) -> None:
        """Leave a row that others need longer than its sequence does; seated anew when next reserved."""
        self._rest(strand, strand.n_known)
        self._start_over(strand.seq, strand.row, n_tokens)

    def _start_over(self, seq: SequenceView, row: int, n_tokens: int) -> None:
        """A sequence waits for a seat with the first tokens of a row."""
        strand = self._strands[seq.id] = RowStrand(seq)
        if n_tokens:
            self._pin(strand, row, n_tokens)

    def release(self, seq: SequenceView, keep_cached: bool = True) -> None:
        """See KVStore."""
        strand = self._at_rest(seq)
        if strand is None:
            return
        del self._strands[seq.id]
        row = strand.row
        if row == UNSEATED:
            self._let_go(strand)
        elif keep_cached and strand.hashes:
            self._rest(strand, strand.n_known)
        elif self._pins[row]:
            self._unindex(strand, 0)
            self._rest(strand, max(self._pins[row]))
        else:
            self._clear(row)

    def _rest(self, strand: RowStrand, n_tokens: int) -> None:
        """A running row becomes idle, with its first tokens."""
        if n_tokens < strand.n:
            self._cut(strand, n_tokens)
        self._pool.retire(strand)
        strand.busy = False
        self._idle[strand.row] = strand

    def _cut(self, strand: RowStrand, n_tokens: int) -> None:
        self._pool.shrink(strand, n_tokens)
        self._unindex(strand, n_tokens // BLOCK_TOKENS)
        strand.n = strand.end = n_tokens
        strand.mark = next_mark(n_tokens)
        self._queue(OpKind.TRUNCATE, strand.row, strand.row, n_tokens)

    def _clear(self, row: int) -> None:
        """Empty a row that nobody is pinned to; operations still queued for it are moot."""
        strand = self._row(row)
        self._unindex(strand, 0)
        self._pool.drop(strand)
        self._idle.pop(row, None)
        self._rows[row] = None
        heappush(self._empty, row)
        self._retired(tuple(op for op in self._pending if op.dst == row))
        self._pending = [op for op in self._pending if op.dst != row]
        self._queue(OpKind.TRUNCATE, row, row, 0)

    # --- operations and index ------------------------------------------------------------------

    def _queue(self, kind: OpKind, src: int, dst: int, n_tokens: int) -> None:
        self._pending.append(KVOp(kind, src, dst, n_tokens))

    def _retired(self, ops: tuple[KVOp, ...]) -> None:
        for op in ops:
            if op.kind is OpKind.FORK:
                self._pins[op.src].remove(op.n_tokens)

    def _scrub(self, strand: RowStrand) -> KVOp | None:
        return KVOp(OpKind.TRUNCATE, strand.row, strand.row, strand.end)

    def _complete(self, strand: RowStrand) -> None:
        self._enter(strand)
        strand.mark = next_mark(strand.n)

    def _enter(self, strand: RowStrand) -> None:
        """Index the strand's full blocks that are not indexed yet."""
        if not strand.seq.shares:
            return
        known = strand.seq.block_hashes
        for block_hash in known[len(strand.hashes) : strand.n // BLOCK_TOKENS]:
            self._index.setdefault(block_hash, set()).add(strand.row)
            strand.hashes.append(block_hash)

    def _unindex(self, strand: RowStrand, n_blocks: int) -> None:
        """Forget the strand's blocks after the first n_blocks."""
        for block_hash in strand.hashes[n_blocks:]:
            rows = self._index[block_hash]
            rows.discard(strand.row)
            if not rows:
                del self._index[block_hash]
        del strand.hashes[n_blocks:]

    def _row(self, row: int) -> RowStrand:
        strand = self._rows[row]
        if strand is None:
            raise ValueError(f"row {row} is empty")
        return strand

    # --- integrity -----------------------------------------------------------------------------

    def check(self) -> None:
        """See KVStore."""
        self._check_strands()
        self._check_rows()
        self._check_pins()
        held = [s for s in self._strands.values() if s.row == UNSEATED]
        held += [s for s in self._rows if s is not None]
        n_reserved = sum(s.end - s.n for s in self._strands.values())
        self._pool.check(held, n_reserved)

    def _check_rows(self) -> None:
        empty = [row for row, strand in enumerate(self._rows) if strand is None]
        assert sorted(self._empty) == empty, "empty rows and the heap of them differ"
        indexed: dict[bytes, set[int]] = {}
        for row, strand in enumerate(self._rows):
            if strand is None:
                continue
            assert strand.row == row
            assert (row in self._idle) != strand.busy, "a row is exactly one of idle and running"
            owner = self._strands.get(strand.seq.id)
            assert not strand.busy or owner is strand, "a running row has no sequence"
            for block_hash in strand.hashes:
                indexed.setdefault(block_hash, set()).add(row)
        assert indexed == self._index, "the index and the rows' blocks differ"

    def _check_pins(self) -> None:
        pins: list[list[int]] = [[] for _ in self._rows]
        for strand in self._strands.values():
            if strand.source != UNSEATED:
                pins[strand.source].append(strand.n)
        queued = [op for reservation, _ in self._flying for op in reservation.ops]
        for op in queued + self._pending:
            if op.kind is OpKind.FORK:
                pins[op.src].append(op.n_tokens)
        assert [sorted(p) for p in pins] == [sorted(p) for p in self._pins], "pins do not add up"
        for row, lengths in enumerate(pins):
            assert not lengths or self._row(row).n >= max(lengths), "a row is cut below its pins"


def _common(strand: RowStrand, tokens: Sequence[int], n: int, most: int) -> int:
    """How much of `tokens` the strand begins with, at most `most`; the first n are known to agree."""
    if n >= most:
        return most if n else 0
    most = min(most, strand.n_known, n + BLOCK_TOKENS)
    if most <= n:
        return n
    held = strand.seq.tokens[n:most]
    for ours, theirs in zip(tokens[n:most], held, strict=True):
        if ours != theirs:
            break
        n += 1
    return n
