"""PrefixUsage: which prefixes requests had, and how many requests had each block of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from hearth_backends.kv.contract import BLOCK_TOKENS

MOST_PREFIXES = 256
MOST_BLOCKS = 1 << 16
HOT_USES = 2
"""Requests that had a prefix before it is worth keeping over a restart."""


@dataclass(frozen=True, slots=True, eq=False)
class UsedPrefix:
    """The whole blocks of a request that has left."""

    tokens: array[int]  # int32
    hashes: tuple[bytes, ...]


class PrefixUsage:
    """Remembers the latest of them; one that begins another is not remembered beside it."""

    def __init__(self) -> None:
        self._prefixes: dict[bytes, UsedPrefix] = {}  # by the hash of the last block
        self._owners: dict[bytes, UsedPrefix] = {}  # by block hash, the latest prefix that has it
        self._uses: dict[bytes, int] = {}  # by block hash, the least recently used first

    def __iter__(self) -> Iterator[UsedPrefix]:
        """From the latest."""
        return reversed(list(self._prefixes.values()))

    def note(self, prefix: UsedPrefix, *, counts: bool) -> None:
        """A request has left, or, where it does not count, leaves for a while."""
        for block_hash in prefix.hashes:
            old = self._prefixes.get(block_hash)
            if old is not None:
                self._forget(old)
            self._owners[block_hash] = prefix
            if counts:
                self._uses[block_hash] = self._uses.pop(block_hash, 0) + 1
        self._prefixes[prefix.hashes[-1]] = prefix
        while len(self._prefixes) > MOST_PREFIXES:
            self._forget(next(iter(self._prefixes.values())))
        while len(self._uses) > MOST_BLOCKS:
            del self._uses[next(iter(self._uses))]

    def upto(self, block_hash: bytes) -> UsedPrefix | None:
        """The prefix that ends with a block, where it is remembered."""
        owner = self._owners.get(block_hash)
        if owner is None:
            return None
        n_blocks = owner.hashes.index(block_hash) + 1
        return UsedPrefix(owner.tokens[: n_blocks * BLOCK_TOKENS], owner.hashes[:n_blocks])

    def n_hot(self, prefix: UsedPrefix) -> int:
        """Blocks of a prefix that HOT_USES requests had; it is as hot from there back to its beginning."""
        for n in range(len(prefix.hashes), 0, -1):
            if self._uses.get(prefix.hashes[n - 1], 0) >= HOT_USES:
                return n
        return 0

    def _forget(self, prefix: UsedPrefix) -> None:
        del self._prefixes[prefix.hashes[-1]]
        for block_hash in prefix.hashes:
            if self._owners.get(block_hash) is prefix:
                del self._owners[block_hash]
