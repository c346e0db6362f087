"""PagedStore: sequences in blocks of BLOCK_TOKENS tokens, found through block tables.

Full blocks are shared by reference and never written again, so no operation is ever needed. A block
that nobody holds stays in the free list with its hash, and is found there until it is used again:
the list is the cache's LRU. Block 0 is the null block, which padding may write to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush

from hearth_backends.kv.contract import BLOCK_TOKENS, Placement, SequenceView, Want
from hearth_backends.kv.transactions import UNSEATED, Strand, TransactionalStore, next_mark

NULL_BLOCK = 0


class _FreeList:
    """Free blocks, the next to be used first; any of them can leave in constant time."""

    def __init__(self, n_blocks: int) -> None:
        self.n = 0
        self._next = [NULL_BLOCK] * n_blocks  # the null block heads and ends the ring
        self._previous = [NULL_BLOCK] * n_blocks
        for block in range(1, n_blocks):
            self.append(block)

    def append(self, block: int) -> None:
        """Put a block at the end: it is used last."""
        self._insert(block, NULL_BLOCK)

    def push(self, block: int) -> None:
        """Put a block at the front: it is used next."""
        self._insert(block, self._next[NULL_BLOCK])

    def _insert(self, block: int, before: int) -> None:
        after = self._previous[before]
        self._next[after] = self._previous[before] = block
        self._next[block], self._previous[block] = before, after
        self.n += 1

    def remove(self, block: int) -> None:
        """Take out a block that is in the list."""
        before, after = self._previous[block], self._next[block]
        self._next[before], self._previous[after] = after, before
        self.n -= 1

    def pop(self) -> int:
        """Take out the first block; the list must not be empty."""
        block = self._next[NULL_BLOCK]
        self.remove(block)
        return block

    def __iter__(self) -> Iterator[int]:
        block = self._next[NULL_BLOCK]
        while block != NULL_BLOCK:
            yield block
            block = self._next[block]


class PagedStrand(Strand):
    """A sequence's block table."""

    __slots__ = ("blocks",)

    def __init__(self, seq: SequenceView) -> None:
        super().__init__(seq)
        self.blocks: list[int] = []


class PagedStore(TransactionalStore[PagedStrand]):
    """Sequences over n_blocks blocks, the null block among them, in n_seq rows."""

    def __init__(self, n_seq: int, n_blocks: int, n_ctx: int) -> None:
        super().__init__(n_ctx)
        self._free = _FreeList(n_blocks)
        self._refs = [0] * n_blocks  # tables that hold a block
        self._hash_of: list[bytes | None] = [None] * n_blocks
        self._index: dict[bytes, int] = {}  # block hash -> block, held or free
        self._rows = list(range(n_seq))  # a heap of those nobody has
        self._n_unseated = 0

    # --- matching ------------------------------------------------------------------------------

    def match(self, seq: SequenceView, limit: int | None = None) -> int:
        """See KVStore; whole blocks only."""
        old = self._strands.get(seq.id)
        if old is not None:
            if old.row != UNSEATED:
                raise ValueError(f"sequence {seq.id} is matched again without a release")
            self._leave(old)
        strand = self._strands[seq.id] = PagedStrand(seq)
        self._n_unseated += 1
        most = len(seq.tokens) - 1 if limit is None else min(limit, len(seq.tokens) - 1)
        if not seq.shares or most < BLOCK_TOKENS:
            return 0
        for block_hash in seq.block_hashes[: most // BLOCK_TOKENS]:
            block = self._index.get(block_hash)
            if block is None:
                break
            if not self._refs[block]:
                self._free.remove(block)
            self._refs[block] += 1
            strand.blocks.append(block)
            strand.hashes.append(block_hash)
        strand.n = strand.end = len(strand.blocks) * BLOCK_TOKENS
        strand.mark = next_mark(strand.n)
        return strand.n

    def locate(self, block_hashes: Sequence[bytes]) -> tuple[Placement, ...] | None:
        """See KVStore; no row, for blocks are enough."""
        blocks = [self._index.get(block_hash) for block_hash in block_hashes]
        known = tuple(block for block in blocks if block is not None)
        if not known or len(known) < len(blocks):
            return None
        return (Placement(UNSEATED, known),)

    # --- room ----------------------------------------------------------------------------------

    def _take(self, n_tokens: int) -> bool:
        return True  # a block is taken whole, before its first token is

    def _give(self, n_tokens: int) -> None:
        pass

    def _make_ready(self, wants: Sequence[Want]) -> list[PagedStrand] | None:
        strands: list[PagedStrand] = []
        short: list[tuple[PagedStrand, int]] = []
        n_blocks = n_rows = 0
        for seq, n_tokens in wants:
            strand = self._strands.get(seq.id)
            if strand is None:
                strand = PagedStrand(seq)
            end = strand.end + n_tokens
            if end > strand.room:
                n_rows += strand.row == UNSEATED
                n_blocks += _n_blocks(end) - len(strand.blocks)
                short.append((strand, end))
            strands.append(strand)
        if n_blocks > self._free.n or n_rows > len(self._rows):
            return None
        if any(end > self.n_ctx for _, end in short):
            return None
        for strand, end in short:
            self._extend(strand, end)
        return strands

    def _extend(self, strand: PagedStrand, end: int) -> None:
        """Seat the strand and let its table reach `end` tokens."""
        if strand.row == UNSEATED:
            self._n_unseated -= strand.seq.id in self._strands
            self._strands[strand.seq.id] = strand
            strand.row = heappop(self._rows)
        for _ in range(len(strand.blocks), _n_blocks(end)):
            block = self._free.pop()
            self._evict(block)
            self._refs[block] = 1
            strand.blocks.append(block)
        self._settle(strand)

    def _settle(self, strand: PagedStrand) -> None:
        """The table has changed."""
        strand.room = min(len(strand.blocks) * BLOCK_TOKENS, self.n_ctx)
        strand.placement = Placement(strand.row, tuple(strand.blocks))

    def _evict(self, block: int) -> None:
        """A block from the free list is about to hold something else."""
        block_hash = self._hash_of[block]
        if block_hash is not None and self._hear_eviction is not None:
            self._hear_eviction(block_hash)
        self._forget(block)

    def _forget(self, block: int) -> None:
        block_hash = self._hash_of[block]
        if block_hash is not None:
            del self._index[block_hash]
            self._hash_of[block] = None

    def _complete(self, strand: PagedStrand) -> None:
        """Index the blocks that are full; a hash keeps the first block that had it."""
        strand.mark = next_mark(strand.n)
        if not strand.seq.shares:
            return
        known = strand.seq.block_hashes
        for block_hash in known[len(strand.hashes) : strand.n // BLOCK_TOKENS]:
            block = strand.blocks[len(strand.hashes)]
            if block_hash not in self._index:
                self._index[block_hash] = block
                self._hash_of[block] = block_hash
            strand.hashes.append(block_hash)

    def free_tokens(self) -> int:
        """See KVStore: of whole free blocks."""
        return self._free.n * BLOCK_TOKENS

    def can_admit(self) -> bool:
        """See KVStore."""
        return len(self._rows) > self._n_unseated

    # --- leaving -------------------------------------------------------------------------------

    def _shortened(self, strand: PagedStrand) -> None:
        self._cut(strand, _n_blocks(strand.end))

    def truncate(self, seq: SequenceView, n_tokens: int) -> None:
        """See KVStore; a shared block that would be written again is given up whole."""
        strand = self._at_rest(seq)
        if strand is None or n_tokens >= strand.n:
            return
        n_full = n_tokens // BLOCK_TOKENS
        if n_tokens % BLOCK_TOKENS and not self._may_write(strand.blocks[n_full]):
            n_tokens = n_full * BLOCK_TOKENS
        strand.n = strand.end = n_tokens
        strand.mark = next_mark(n_tokens)
        del strand.hashes[n_full:]
        self._cut(strand, _n_blocks(n_tokens))

    def _may_write(self, block: int) -> bool:
        """Whether only one table holds a block; if so nobody will find it again as it was."""
        if self._refs[block] > 1:
            return False
        self._forget(block)
        return True

    def _cut(self, strand: PagedStrand, n_blocks: int) -> None:
        """Shorten a table; its last block is the first to be used again."""
        if len(strand.blocks) > n_blocks:
            self._drop(reversed(strand.blocks[n_blocks:]))
            del strand.blocks[n_blocks:]
            if strand.row != UNSEATED:
                self._settle(strand)

    def _drop(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._refs[block] -= 1
            if self._refs[block]:
                continue
            if self._hash_of[block] is None:
                self._free.push(block)
            else:
                self._free.append(block)

    def _leave(self, strand: PagedStrand) -> None:
        del self._strands[strand.seq.id]
        if strand.row == UNSEATED:
            self._n_unseated -= 1
        else:
            heappush(self._rows, strand.row)
        self._drop(reversed(strand.blocks))

    def release(self, seq: SequenceView, keep_cached: bool = True) -> None:
        """See KVStore."""
        strand = self._at_rest(seq)
        if strand is None:
            return
        if not keep_cached:
            for block in strand.blocks:
                if self._refs[block] == 1:
                    self._forget(block)
        self._leave(strand)

    # --- integrity -----------------------------------------------------------------------------

    def check(self) -> None:
        """See KVStore."""
        self._check_strands()
        refs = [0] * len(self._refs)
        for strand in self._strands.values():
            assert len(strand.blocks) == _n_blocks(strand.end), "a table is too long or too short"
            for block in strand.blocks:
                refs[block] += 1
        assert refs == self._refs, "references do not add up"
        free = list(self._free)
        assert len(free) == len(set(free)) == self._free.n
        assert not any(refs[block] for block in free), "a block is both free and held"
        n_held = sum(count > 0 for count in refs)
        assert NULL_BLOCK not in free
        assert not refs[NULL_BLOCK]
        assert n_held + len(free) + 1 == len(refs), "blocks do not add up"
        hashed = {h: block for block, h in enumerate(self._hash_of) if h is not None}
        assert hashed == self._index, "the index and the blocks' hashes differ"
        rows = [s.row for s in self._strands.values() if s.row != UNSEATED]
        assert len(set(rows + self._rows)) == len(rows) + len(self._rows)
        assert self._n_unseated == len(self._strands) - len(rows)


def _n_blocks(n_tokens: int) -> int:
    return -(-n_tokens // BLOCK_TOKENS)
