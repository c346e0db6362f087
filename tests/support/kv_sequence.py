"""A sequence for tests of stores, and the two calls that every one of them makes."""

from __future__ import annotations

from collections.abc import Sequence

from hearth_backends.kv.contract import KVStore, Reservation, Want
from hearth_backends.kv.hashing import HashChain


class Seq:
    """A SequenceView whose prefix may be shared unless it says otherwise."""

    def __init__(
        self, key: int, tokens: Sequence[int], *, shares: bool = True, salt: str = ""
    ) -> None:
        self.id = key
        self.tokens = list(tokens)
        self.shares = shares
        self._chain = HashChain("model", salt=salt)

    @property
    def block_hashes(self) -> Sequence[bytes]:
        return self._chain.upto(self.tokens)


def reserve(store: KVStore, *wants: tuple[Seq, int]) -> Reservation:
    """A reservation that must be granted."""
    reservation = store.reserve([Want(seq, n) for seq, n in wants])
    assert reservation is not None
    store.check()
    return reservation


def compute(store: KVStore, seq: Seq, n_tokens: int) -> Reservation:
    """Compute the next tokens of a sequence."""
    reservation = reserve(store, (seq, n_tokens))
    store.commit(reservation, {})
    store.check()
    return reservation


def cache(store: KVStore, seq: Seq) -> Reservation:
    """Compute a sequence from its beginning and let it go, its prefix kept."""
    assert store.match(seq) == 0
    reservation = compute(store, seq, len(seq.tokens))
    store.release(seq)
    store.check()
    return reservation
