"""StateStore: models that carry a state and cannot step back, with saved states to start from.

Recurrent and hybrid models cannot give up single tokens. What is cached are copies of a row's whole
state, taken where it stood at a block's end; a sequence starts from one of those, and a step that
failed sends its sequences back to one, or to their beginning.

Operations may be applied twice, and a SAVE read twice would read a row that has moved on. So a
failed reservation's SAVEs are forgotten, and a state counts only once its SAVE is committed.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from hearth_backends.kv.contract import BLOCK_TOKENS, KVOp, OpKind, Placement, SequenceView, Want
from hearth_backends.kv.transactions import UNSEATED, Strand, TransactionalStore, next_mark

_SAVE_EVERY_TOKENS = 64
"""Between two saved states of an output; a prompt's are saved wherever a step ends with a block."""


_MOST_BEGUN = 1 << 14
"""Blocks of sequences that are remembered, to tell where others part from them."""


class StateStrand(Strand):
    """A sequence, and the saved state it starts from until it is seated."""

    __slots__ = ("n_saved", "parting", "source")

    def __init__(self, seq: SequenceView) -> None:
        super().__init__(seq)
        self.source: _State | None = None
        self.n_saved = 0  # tokens at which it was last saved
        self.parting = 0  # tokens that another sequence began with too


class _State:
    """One saved state."""

    __slots__ = ("block_hash", "index", "is_saved", "n", "pins")

    def __init__(self, index: int, block_hash: bytes, n: int) -> None:
        self.index = index
        self.block_hash = block_hash
        self.n = n
        self.pins = 0  # unseated strands that start from it, and LOADs not yet committed
        self.is_saved = False  # its SAVE is committed


class StateStore(TransactionalStore[StateStrand]):
    """Sequences in n_seq rows of n_ctx tokens each, and n_states saved states.

    Hybrid models keep keys and values besides: rows share the room for n_tokens of them (None: for
    all), and saved states that for n_state_tokens (None: they keep none).
    Steps of one sequence that are in flight together must be undone together.
    """

    def __init__(
        self,
        n_seq: int,
        n_ctx: int,
        n_states: int,
        *,
        n_tokens: int | None = None,
        n_state_tokens: int | None = None,
    ) -> None:
        super().__init__(n_ctx)
        room = n_seq * n_ctx
        self._n_tokens = room if n_tokens is None else min(room, n_tokens)
        self._is_roomy = self._n_tokens == room  # every row may be full
        self._n_state_tokens = n_state_tokens
        self._state_tokens_left = n_state_tokens or 0
        self._n_seq = n_seq
        self._rows = list(range(n_seq))  # a heap of those nobody has
        self._n_unseated = 0
        self._n_states = n_states
        self._free_states = list(range(n_states))[::-1]
        self._states: dict[int, _State] = {}  # by number, the least recently used first
        self._begun: dict[
            bytes, int
        ] = {}  # prefixes of blocks: which sequence began so, the oldest first
        self._index: dict[bytes, _State] = {}  # saved or being saved, by the hash of its last block

    # --- matching ------------------------------------------------------------------------------

    def match(self, seq: SequenceView, limit: int | None = None) -> int:
        """See KVStore; whole saved states only."""
        old = self._strands.get(seq.id)
        if old is not None:
            if old.row != UNSEATED:
                raise ValueError(f"sequence {seq.id} is matched again without a release")
            self._leave(old)
        most = len(seq.tokens) - 1
        return self._start(seq, most if limit is None else min(limit, most))

    def _start(self, seq: SequenceView, limit: int) -> int:
        """An unseated strand of a sequence, pinned to the longest state up to a limit."""
        strand = self._strands[seq.id] = StateStrand(seq)
        strand.parting = self._note(seq)
        self._n_unseated += 1
        state = self._longest(seq, limit)
        if state is not None:
            state.pins += 1
            strand.source = state
            self._set_length(strand, state.n)
        return strand.n

    def _longest(self, seq: SequenceView, limit: int) -> _State | None:
        """The saved state that holds most of a sequence, at most `limit` tokens; it counts as used."""
        if not self._index or not seq.shares:
            return None
        for block_hash in reversed(seq.block_hashes[: max(limit, 0) // BLOCK_TOKENS]):
            state = self._index.get(block_hash)
            if state is not None and state.is_saved:
                self._states[state.index] = self._states.pop(state.index)
                return state
        return None

    def _note(self, seq: SequenceView) -> int:
        """Remember what a sequence begins with; returns the tokens that others began with as well."""
        if not seq.shares:
            return 0
        parting = 0
        for i, block_hash in enumerate(
            seq.block_hashes[: (len(seq.tokens) - 1) // BLOCK_TOKENS], 1
        ):
            owner = self._begun.pop(block_hash, seq.id)
            self._begun[block_hash] = owner
            if owner != seq.id:
                parting = i * BLOCK_TOKENS
        while len(self._begun) > _MOST_BEGUN:
            del self._begun[next(iter(self._begun))]
        return parting

    def parting(self, seq: SequenceView, n_tokens: int) -> int | None:
        """See KVStore: a step that ends there saves a state for the next one that begins so."""
        strand = self._strands.get(seq.id)
        return strand.parting if strand is not None and strand.parting > n_tokens else None

    @staticmethod
    def _set_length(strand: StateStrand, n: int) -> None:
        strand.n = strand.end = strand.n_saved = n
        strand.mark = next_mark(n)

    # --- room ----------------------------------------------------------------------------------

    def _take(self, n_tokens: int) -> bool:
        return self._is_roomy or n_tokens <= self._n_tokens - self._n_seated()

    def _n_seated(self) -> int:
        """Tokens that rows hold or have reserved."""
        return sum(s.end for s in self._strands.values() if s.row != UNSEATED)

    def _give(self, n_tokens: int) -> None:
        pass

    def _make_ready(self, wants: Sequence[Want]) -> list[StateStrand] | None:
        strands = [self._strands.get(seq.id) or StateStrand(seq) for seq, _ in wants]
        unseated = [strand for strand in strands if strand.row == UNSEATED]
        if len(unseated) > len(self._rows):
            return None
        n_new = sum(strand.end for strand in unseated)
        for strand, want in zip(strands, wants, strict=True):
            if strand.end + want.n_tokens > self.n_ctx:
                return None
            n_new += want.n_tokens
        if not self._take(n_new):
            return None
        for strand in unseated:
            self._seat(strand)
        return strands

    def _seat(self, strand: StateStrand) -> None:
        self._n_unseated -= strand.seq.id in self._strands
        self._strands[strand.seq.id] = strand
        strand.row = heappop(self._rows)
        strand.placement = Placement(strand.row)
        strand.room = self.n_ctx
        state, strand.source = strand.source, None
        if state is not None:  # its pin is the operation's now
            self._pending.append(_load(state, strand.row))

    def free_tokens(self) -> int:
        """See KVStore: all that running rows have not taken."""
        return self._n_tokens - sum(strand.end for strand in self._strands.values())

    def can_admit(self) -> bool:
        """See KVStore."""
        return len(self._rows) > self._n_unseated

    # --- saving --------------------------------------------------------------------------------

    def _complete(self, strand: StateStrand) -> None:
        strand.mark = next_mark(strand.n)
        seq = strand.seq
        if strand.n % BLOCK_TOKENS or strand.end != strand.n or not seq.shares:
            return
        in_prompt = strand.n < len(seq.tokens) - 1
        if strand.n_saved and not in_prompt and strand.n - strand.n_saved < _SAVE_EVERY_TOKENS:
            return
        known = seq.block_hashes
        n_blocks = strand.n // BLOCK_TOKENS
        if n_blocks <= len(known) and known[n_blocks - 1] not in self._index:
            self._save(strand, known[n_blocks - 1])

    def _save(self, strand: StateStrand, block_hash: bytes) -> None:
        """Keep the row's state as it stands; the operation goes before the row's next tokens."""
        n_copied = self._n_copied(strand.n)
        if n_copied > (self._n_state_tokens or 0):
            return
        while not self._free_states or self._state_tokens_left < n_copied:
            if not self._evict():
                return
        self._state_tokens_left -= n_copied
        state = _State(self._free_states.pop(), block_hash, strand.n)
        self._states[state.index] = self._index[block_hash] = state
        self._pending.append(KVOp(OpKind.SAVE, strand.row, state.index, strand.n))
        strand.n_saved = strand.n

    def _n_copied(self, n_tokens: int) -> int:
        """Tokens whose keys and values a state of n_tokens holds."""
        return 0 if self._n_state_tokens is None else n_tokens

    def _evict(self) -> bool:
        """Drop the saved state that was not used for longest; False when all are needed."""
        for state in self._states.values():
            if state.is_saved and not state.pins:
                self._pending.append(self._drop(state))
                return True
        return False

    def _drop(self, state: _State) -> KVOp:
        del self._states[state.index], self._index[state.block_hash]
        self._free_states.append(state.index)
        self._state_tokens_left += self._n_copied(state.n)
        return KVOp(OpKind.DROP, state.index, state.index, state.n)

    def _retired(self, ops: tuple[KVOp, ...]) -> None:
        for op in ops:
            if op.kind is OpKind.SAVE:
                self._states[op.dst].is_saved = True
            elif op.kind is OpKind.LOAD:
                self._states[op.src].pins -= 1

    # --- going back ----------------------------------------------------------------------------

    def _again(self, ops: tuple[KVOp, ...], strands: list[StateStrand]) -> list[KVOp]:
        rows = {strand.row for strand in strands}
        again: list[KVOp] = []
        for op in ops:
            if op.kind is OpKind.SAVE:
                again.append(self._drop(self._states[op.dst]))
            elif op.kind is OpKind.DROP or op.dst not in rows:
                again.append(op)
            elif op.kind is OpKind.LOAD:
                self._states[op.src].pins -= 1
        return again

    def _scrub(self, strand: StateStrand) -> KVOp | None:
        """The row goes back to its longest saved state, or to its beginning."""
        if strand.end != strand.n:
            return None  # an earlier step is undone next
        return self._go_back(strand, strand.n)

    def _go_back(self, strand: StateStrand, limit: int) -> KVOp:
        state = self._longest(strand.seq, limit)
        self._set_length(strand, 0 if state is None else state.n)
        if state is None:
            return KVOp(OpKind.TRUNCATE, strand.row, strand.row, 0)
        state.pins += 1
        return _load(state, strand.row)

    def truncate(self, seq: SequenceView, n_tokens: int) -> None:
        """See KVStore; goes back to a saved state, so that fewer tokens may be left."""
        strand = self._at_rest(seq)
        if strand is None or n_tokens >= strand.n:
            return
        if strand.row == UNSEATED:
            self._leave(strand)
            self._start(seq, n_tokens)
            return
        self._pending.append(self._go_back(strand, n_tokens))

    # --- leaving -------------------------------------------------------------------------------

    def release(self, seq: SequenceView, keep_cached: bool = True) -> None:
        """See KVStore."""
        strand = self._at_rest(seq)
        if strand is None:
            return
        self._leave(strand)
        if not keep_cached:
            for block_hash in seq.block_hashes[: strand.n // BLOCK_TOKENS]:
                state = self._index.get(block_hash)
                if state is not None and state.is_saved and not state.pins:
                    self._pending.append(self._drop(state))

    def _leave(self, strand: StateStrand) -> None:
        del self._strands[strand.seq.id]
        if strand.row == UNSEATED:
            self._n_unseated -= 1
            if strand.source is not None:
                strand.source.pins -= 1
            return
        self._pending.append(KVOp(OpKind.TRUNCATE, strand.row, strand.row, 0))
        heappush(self._rows, strand.row)

    # --- integrity -----------------------------------------------------------------------------

    def check(self) -> None:
        """See KVStore."""
        self._check_strands()
        rows = [s.row for s in self._strands.values() if s.row != UNSEATED]
        assert sorted(rows + self._rows) == list(range(self._n_seq)), "rows do not add up"
        assert self._n_unseated == len(self._strands) - len(rows)
        assert self._is_roomy or self._n_seated() <= self._n_tokens, "rows hold more than there is"
        n_copied = sum(self._n_copied(state.n) for state in self._states.values())
        assert n_copied + self._state_tokens_left == (self._n_state_tokens or 0)
        states = sorted([*self._states, *self._free_states])
        assert states == list(range(self._n_states)), "states do not add up"
        assert self._index == {s.block_hash: s for s in self._states.values()}
        queued = [op for reservation, _ in self._flying for op in reservation.ops]
        queued += self._pending
        pins = dict.fromkeys(self._states, 0)
        saving = set()
        for op in queued:
            if op.kind is OpKind.LOAD:
                pins[op.src] += 1
            elif op.kind is OpKind.SAVE:
                saving.add(op.dst)
        for strand in self._strands.values():
            if strand.source is not None:
                assert self._states[strand.source.index] is strand.source
                pins[strand.source.index] += 1
        for index, state in self._states.items():
            assert state.index == index
            assert state.pins == pins[index], "pins do not add up"
            assert state.is_saved != (index in saving), "a state is exactly one of saved and queued"


def _load(state: _State, row: int) -> KVOp:
    return KVOp(OpKind.LOAD, state.index, row, state.n)
