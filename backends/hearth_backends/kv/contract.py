"""KVStore: the contract of bookkeeping of key-value memory, and what is said between it and the engine.

Nothing here imports a heavy library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

BLOCK_TOKENS = 16
"""Tokens in one block of the prefix cache, on every store."""


class SequenceView(Protocol):
    """What a store may know of a sequence: who it is, its tokens, and the hashes that name its prefix."""

    @property
    def id(self) -> int:
        """Unique for the life of the engine."""

    @property
    def tokens(self) -> Sequence[int]:
        """Prompt and output so far."""

    @property
    def block_hashes(self) -> Sequence[bytes]:
        """One chained hash for each full block of BLOCK_TOKENS tokens; grows with `tokens`."""

    @property
    def shares(self) -> bool:
        """Whether its prefix may be matched against, and left in, the cache."""


class Want(NamedTuple):
    """Room for `n_tokens` more tokens of one sequence, after those it has committed and reserved."""

    seq: SequenceView
    n_tokens: int


class OpKind(Enum):
    """What a stage does to its key-value memory before it computes; each kind is idempotent."""

    FORK = "fork"  # row dst becomes the first n_tokens of row src (what dst held is dropped)
    TRUNCATE = "truncate"  # row dst keeps its first n_tokens (0: cleared)
    SAVE = "save"  # the state of row src, at n_tokens, is kept as state dst
    LOAD = "load"  # row dst becomes saved state src, of n_tokens
    DROP = "drop"  # saved state src is forgotten


@dataclass(frozen=True, slots=True)
class KVOp:
    """One operation on key-value memory; `src` and `dst` are rows, or saved states where the kind says so."""

    kind: OpKind
    src: int
    dst: int
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a sequence lives: a row in [0, n_seq), and its block table where the store is paged."""

    row: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reservation:
    """Room granted for one step: `ops` first and in order, then one placement for each want.

    `parts` is filled by the joint store of a pipeline: one reservation for each stage.
    """

    wants: tuple[Want, ...]
    ops: tuple[KVOp, ...]
    placements: tuple[Placement, ...]
    parts: tuple[Reservation, ...] = ()


class KVStore(Protocol):
    """Bookkeeping of key-value memory; holds no tensors, runs in the engine's process.

    Order of calls for a sequence: `match`, then any number of `reserve` each followed by one `commit`,
    `rollback` or `withdraw` (reservations may overlap in flight: they are committed in order, undone in
    reverse), `truncate` between steps, `release` once and with nothing in flight. `reserve` and
    `release` without `match` are allowed, and after `release` the same sequence may `match` again
    (preemption).
    Operations that arise outside a reservation (truncate, release, eviction) are queued and travel
    at the front of the next reservation's `ops`; a rollback queues them again, since its stage may
    have applied any number of them: a list of operations may be applied again from its beginning.
    """

    def match(self, seq: SequenceView, limit: int | None = None) -> int:
        """Pin the longest cached prefix and return its length, at most len(seq.tokens) - 1.

        With a limit, the longest prefix of at most `limit` tokens that this store can give, which may
        be shorter (whole blocks, saved states). Until the first reserve, another match replaces it.
        """

    def reserve(self, wants: Sequence[Want]) -> Reservation | None:
        """Grant all wants or none; evicts idle prefixes for room. None changes nothing but the cache."""

    def commit(self, reservation: Reservation, computed: Mapping[int, int]) -> None:
        """Record how many of the reserved tokens each sequence id really computed; the rest is freed.

        A sequence id missing from `computed` computed all it reserved.
        """

    def rollback(self, reservation: Reservation) -> None:
        """Undo a reservation whose step did not happen, or failed half way.

        Where a stage cannot go back token by token, `committed` tells what is left of a sequence.
        """

    def withdraw(self, reservation: Reservation) -> None:
        """Undo a reservation that no stage has seen: nothing is lost, whatever the store."""

    def committed(self, seq: SequenceView) -> int:
        """Tokens of the sequence that are in memory now, matched ones included; 0 when unknown."""

    def truncate(self, seq: SequenceView, n_tokens: int) -> None:
        """Forget the committed tokens after the first n_tokens (rejected drafts); see `committed`."""

    def release(self, seq: SequenceView, keep_cached: bool = True) -> None:
        """The sequence is done or preempted; its committed blocks stay matchable if keep_cached."""

    def free_tokens(self) -> int:
        """Tokens that can be reserved now, idle prefixes counted as free."""

    def can_admit(self) -> bool:
        """Whether one more sequence could have a row."""

    def locate(self, block_hashes: Sequence[bytes]) -> tuple[Placement, ...] | None:
        """Where the prefix of these full blocks can be exported from now, one placement for each stage.

        None where it is not in memory, or cannot be read there. Changes nothing, not even what is
        evicted next.
        """

    def watch_evictions(self, hear: Callable[[bytes], None]) -> None:
        """Have `hear` called with the hash of a block's prefix that is about to leave memory.

        It is called while that prefix can still be located, and may export it before it returns.
        """

    def parting(self, seq: SequenceView, n_tokens: int) -> int | None:
        """Where, after its first n_tokens, a matched sequence is likely to part from others.

        None: unknown, or no matter. Memory that cannot step back is shared there only if a step ends
        there.
        """

    def check(self) -> None:
        """Raise AssertionError unless every unit is exactly one of free, reserved, committed."""
