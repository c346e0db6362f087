"""JointStore: the stores of a pipeline's stages as one, agreed on how much each sequence holds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from hearth_backends.kv.contract import KVStore, Placement, Reservation, SequenceView, Want


class JointStore:
    """A KVStore over one store for each stage.

    Every sequence holds the same tokens in all of them: what one store cannot do, the others are
    brought down to. Rows and blocks may differ: a reservation has one part for each stage.
    """

    def __init__(self, stores: Sequence[KVStore]) -> None:
        if not stores:
            raise ValueError("a joint store needs at least one store")
        self.stores = tuple(stores)
        self._flying: deque[Reservation] = deque()

    def match(self, seq: SequenceView, limit: int | None = None) -> int:
        """See KVStore: the longest prefix that all stores can give."""
        lengths = [store.match(seq, limit) for store in self.stores]
        while (least := min(lengths)) != max(lengths):
            lengths = [
                n if n == least else store.match(seq, least)
                for n, store in zip(lengths, self.stores, strict=True)
            ]
        return least

    def reserve(self, wants: Sequence[Want]) -> Reservation | None:
        """See KVStore: in all stores or in none."""
        parts: list[Reservation] = []
        for store in self.stores:
            part = store.reserve(wants)
            if part is None:
                for done, granted in reversed(list(zip(self.stores, parts, strict=False))):
                    done.withdraw(granted)
                return None
            parts.append(part)
        first = parts[0]
        joint = Reservation(first.wants, first.ops, first.placements, tuple(parts))
        self._flying.append(joint)
        return joint

    def commit(self, reservation: Reservation, computed: Mapping[int, int]) -> None:
        """See KVStore."""
        if not self._flying or self._flying[0] is not reservation:
            raise ValueError("a reservation was committed out of order")
        self._flying.popleft()
        for store, part in zip(self.stores, reservation.parts, strict=True):
            store.commit(part, computed)
        for seq, n_tokens in reservation.wants if computed else ():
            if computed.get(seq.id, n_tokens) < n_tokens:
                self._agree(seq)

    def rollback(self, reservation: Reservation) -> None:
        """See KVStore."""
        self._undo(reservation)
        for store, part in zip(self.stores, reservation.parts, strict=True):
            store.rollback(part)
        in_flight = {want.seq.id for other in self._flying for want in other.wants}
        for seq, _ in reservation.wants:
            if seq.id not in in_flight:
                self._agree(seq)

    def withdraw(self, reservation: Reservation) -> None:
        """See KVStore."""
        self._undo(reservation)
        for store, part in zip(self.stores, reservation.parts, strict=True):
            store.withdraw(part)

    def _undo(self, reservation: Reservation) -> None:
        if not self._flying or self._flying[-1] is not reservation:
            raise ValueError("a reservation was undone out of order")
        self._flying.pop()

    def _agree(self, seq: SequenceView) -> None:
        """Bring all stores down to what the one with least holds of a sequence."""
        while len(lengths := {store.committed(seq) for store in self.stores}) > 1:
            for store in self.stores:
                store.truncate(seq, min(lengths))

    def committed(self, seq: SequenceView) -> int:
        """See KVStore."""
        return min(store.committed(seq) for store in self.stores)

    def truncate(self, seq: SequenceView, n_tokens: int) -> None:
        """See KVStore."""
        for store in self.stores:
            store.truncate(seq, n_tokens)
        self._agree(seq)

    def release(self, seq: SequenceView, keep_cached: bool = True) -> None:
        """See KVStore."""
        for store in self.stores:
            store.release(seq, keep_cached)

    def free_tokens(self) -> int:
        """See KVStore: what every store has."""
        return min(store.free_tokens() for store in self.stores)

    def can_admit(self) -> bool:
        """See KVStore."""
        return all(store.can_admit() for store in self.stores)

    def locate(self, block_hashes: Sequence[bytes]) -> tuple[Placement, ...] | None:
        """See KVStore: in every stage, or nowhere."""
        found: list[Placement] = []
        for store in self.stores:
            placements = store.locate(block_hashes)
            if placements is None:
                return None
            found += placements
        return tuple(found)

    def parting(self, seq: SequenceView, n_tokens: int) -> int | None:
        """See KVStore: what the first store says that knows."""
        found = (store.parting(seq, n_tokens) for store in self.stores)
        return next((n for n in found if n is not None), None)

    def watch_evictions(self, hear: Callable[[bytes], None]) -> None:
        """See KVStore."""
        for store in self.stores:
            store.watch_evictions(hear)

    def check(self) -> None:
        """See KVStore; and that the stores agree on every sequence in flight."""
        for store in self.stores:
            store.check()
        in_flight = {want.seq.id: want.seq for other in self._flying for want in other.wants}
        for seq in in_flight.values():
            assert len({store.committed(seq) for store in self.stores}) == 1, "the stores disagree"
