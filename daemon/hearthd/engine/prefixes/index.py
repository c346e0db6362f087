"""PrefixIndex: saved prefixes by the hashes of their blocks, within a number of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Indexed(Protocol):
    """What an index holds."""

    @property
    def hashes(self) -> Sequence[bytes]:
        """Of its blocks, in order: the last one names it."""

    @property
    def n_bytes(self) -> int: ...


E = TypeVar("E", bound=Indexed)


class PrefixIndex(Generic[E]):
    """Entries, the least recently used first; one that begins another is not kept beside it."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.n_bytes = 0
        self._entries: dict[bytes, E] = {}  # by the hash of the last block
        self._holders: dict[bytes, dict[bytes, None]] = {}  # block hash -> names of entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[E]:
        """From the most recently used."""
        return reversed(list(self._entries.values()))

    def __contains__(self, block_hash: bytes) -> bool:
        """Whether an entry holds this block, and so all before it."""
        return block_hash in self._holders

    def get(self, hashes: Sequence[bytes]) -> E | None:
        """The entry of just these blocks."""
        return self._entries.get(hashes[-1]) if hashes else None

    def longest(self, hashes: Sequence[bytes]) -> tuple[E, int] | None:
        """The entry that holds most of a prefix, and how many blocks of it; it counts as used."""
        n = self.n_covered(hashes)
        if not n:
            return None
        names = self._holders[hashes[n - 1]]
        name = min(names, key=lambda name: self._entries[name].n_bytes)
        entry = self._entries[name] = self._entries.pop(name)
        return entry, n

    def n_covered(self, hashes: Sequence[bytes]) -> int:
        """Blocks of a prefix that one of the entries holds."""
        n = 0
        for block_hash in hashes:
            if block_hash not in self._holders:
                break
            n += 1
        return n

    def add(self, entry: E) -> list[E]:
        """Keep an entry; returns those that had to go, or the entry itself where it does not fit."""
        if not entry.hashes or entry.n_bytes > self.budget_bytes:
            return [entry]
        gone = self.make_room(entry.hashes, entry.n_bytes)
        name = entry.hashes[-1]
        self._entries[name] = entry
        self.n_bytes += entry.n_bytes
        for block_hash in entry.hashes:
            self._holders.setdefault(block_hash, {})[name] = None
        return gone

    def make_room(self, hashes: Sequence[bytes], n_bytes: int) -> list[E]:
        """Forget what an entry of these blocks and bytes would replace or push out, and return it."""
        gone = [self._entries[h] for h in hashes if h in self._entries]
        for other in gone:
            self.discard(other)
        while self._entries and self.n_bytes + n_bytes > self.budget_bytes:
            oldest = next(iter(self._entries.values()))
            self.discard(oldest)
            gone.append(oldest)
        return gone

    def discard(self, entry: E) -> None:
        """Forget an entry; one that is not here is ignored."""
        name = entry.hashes[-1]
        if self._entries.get(name) is not entry:
            return
        del self._entries[name]
        self.n_bytes -= entry.n_bytes
        for block_hash in entry.hashes:
            names = self._holders[block_hash]
            del names[name]
            if not names:
                del self._holders[block_hash]

    def check(self) -> None:
        """Raise AssertionError unless entries, bytes and hashes agree."""
        assert self.n_bytes == sum(e.n_bytes for e in self._entries.values()) <= self.budget_bytes
        holders: dict[bytes, set[bytes]] = {}
        for name, entry in self._entries.items():
            assert entry.hashes[-1] == name
            for block_hash in entry.hashes:
                holders.setdefault(block_hash, set()).add(name)
        assert holders == {h: set(names) for h, names in self._holders.items()}
