"""PrefixTiers: prefixes beyond key-value memory: copies in host memory, and files on disk.

A prefix is exported when it is about to be evicted, and while the engine has nothing to do where it is
hot; hot ones become files, in idle time and when the engine stops. A request whose prefix is here, and
not in memory, goes on after it: see `Recall`. All methods are the step loop's.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hearth_backends.errors import BackendError, ForeignState, StepError
from hearth_backends.kv.contract import BLOCK_TOKENS, KVStore, Placement
from hearthd.engine.prefixes.disk import PrefixDisk
from hearthd.engine.prefixes.file import SavedPrefix
from hearthd.engine.prefixes.index import PrefixIndex
from hearthd.engine.prefixes.usage import PrefixUsage, UsedPrefix
from hearthd.engine.request import Recalled, Request

log = logging.getLogger(__name__)

LEAST_BLOCKS = 4
"""Fewer are computed again sooner than they are put back."""
LONG_BLOCKS = 32
"""A prefix of so many is kept when the engine stops, whether it was used again or not."""
GROWTH = 1.5
"""A file is written anew for a prefix that has grown by this: a long chat is not written at every turn."""

Export = Callable[[Sequence[Placement], int], tuple[bytes, ...]]
"""Placements, one for each stage, and tokens, to one blob for each stage; raises StepError."""


@dataclass(slots=True)
class PrefixCounters:
    """Totals since the engine started."""

    n_recalls: int = 0  # requests that went on after a saved prefix
    n_recalled_tokens: int = 0
    n_disk_recalls: int = 0  # of n_recalls, those from a file
    n_exports: int = 0


class PrefixTiers:
    """Saves prefixes of a store's sequences, and finds them again."""

    def __init__(
        self, store: KVStore, export: Export, *, ram_bytes: int, disk: PrefixDisk | None = None
    ) -> None:
        self.counters = PrefixCounters()
        self.disk = disk
        self._ram: PrefixIndex[SavedPrefix] = PrefixIndex(ram_bytes)
        self._usage = PrefixUsage()
        self._store = store
        self._export_from = export
        self._has_news = False  # something was used since no hot prefix was found without a file
        store.watch_evictions(self._on_eviction)

    @property
    def ram_bytes(self) -> int:
        """Of the copies in host memory."""
        return self._ram.n_bytes

    @property
    def disk_bytes(self) -> int:
        """Of the files."""
        return 0 if self.disk is None else self.disk.n_bytes

    # --- what requests leave -------------------------------------------------------------------

    def note(self, request: Request, *, counts: bool = True) -> None:
        """A request is about to leave memory, for good or (it does not count) for a while."""
        n_blocks = request.n_computed // BLOCK_TOKENS
        if request.shares and n_blocks >= LEAST_BLOCKS:
            tokens = array("i", request.tokens[: n_blocks * BLOCK_TOKENS])
            hashes = tuple(request.block_hashes[:n_blocks])
            self._usage.note(UsedPrefix(tokens, hashes), counts=counts)
            self._has_news = True

    def _on_eviction(self, block_hash: bytes) -> None:
        """Keep a copy of what leaves, unless most of it is here already."""
        if not self._ram.budget_bytes or block_hash in self._ram:
            return
        prefix = self._usage.upto(block_hash)
        if prefix is None or self._n_missing(prefix) < LEAST_BLOCKS:
            return
        saved = self._export(prefix)
        if saved is not None:
            self._ram.add(saved)

    def _n_missing(self, prefix: UsedPrefix) -> int:
        """Blocks that host memory has no copy of."""
        return len(prefix.hashes) - self._ram.n_covered(prefix.hashes)

    def _export(self, prefix: UsedPrefix) -> SavedPrefix | None:
        """A copy of a prefix that is in memory; None where it cannot be had now."""
        placements = self._store.locate(prefix.hashes)
        if placements is None:
            return None
        try:
            blobs = self._export_from(placements, len(prefix.tokens))
        except StepError as error:
            log.debug("a prefix of %d tokens is not saved: %s", len(prefix.tokens), error)
            return None
        self.counters.n_exports += 1
        return SavedPrefix(prefix.tokens, prefix.hashes, blobs)

    # --- to disk -------------------------------------------------------------------------------

    @property
    def wants_idle_time(self) -> bool:
        """Whether `save_hot` may have something to do."""
        return self._has_news and self.disk is not None and not self.disk.is_resting

    def save_hot(self) -> None:
        """Begin to write the latest hot prefix that has no file yet; for idle moments."""
        if self.disk is None or self.disk.is_resting or self.disk.is_writing:
            return
        for prefix in self._usage:
            n_hot = self._usage.n_hot(prefix)
            n_covered = self.disk.n_covered(prefix.hashes[:n_hot])
            if n_hot >= max(LEAST_BLOCKS, GROWTH * n_covered) and self._save(prefix):
                return
        self._has_news = False

    def flush(self, until_seconds: float) -> None:
        """Write what is worth it before the engine ends: the hot first, then the long, the latest first."""
        if self.disk is None:
            return
        latest = list(self._usage)
        hot = [p for p in latest if self._usage.n_hot(p) >= LEAST_BLOCKS]
        long = [p for p in latest if len(p.hashes) >= LONG_BLOCKS and p not in hot]
        wanted = [(p, self._usage.n_hot(p)) for p in hot] + [(p, len(p.hashes)) for p in long]
        for prefix, n_blocks in wanted:
            n_missing = n_blocks - self.disk.n_covered(prefix.hashes[:n_blocks])
            if time.monotonic() >= until_seconds or self.disk.is_resting:
                return
            if n_missing >= LEAST_BLOCKS:
                self._save(prefix, wait=True)

    def _save(self, prefix: UsedPrefix, *, wait: bool = False) -> bool:
        """Begin to write a prefix from where it is; False where it is nowhere any more."""
        assert self.disk is not None
        saved = self._copy_of(prefix) or self._export(prefix)
        if saved is None:
            return False
        writing = self.disk.write(saved)
        if wait:
            writing.result()
        return True

    def _copy_of(self, prefix: UsedPrefix) -> SavedPrefix | None:
        """The copy in host memory that holds all of a prefix."""
        found = self._ram.longest(prefix.hashes)
        return found[0] if found is not None and found[1] == len(prefix.hashes) else None

    # --- back into memory ----------------------------------------------------------------------

    def find(self, request: Request) -> Recalled | None:
        """The copy that saves a request most; None where memory has about as much."""
        if not request.shares or not request.may_recall:
            return None
        hashes = _usable(request)
        copies = [] if request.fetched is None else [request.fetched]
        found = self._ram.longest(hashes)
        if found is not None:
            copies.append(found[0])
        best: Recalled | None = None
        least = request.n_computed + LEAST_BLOCKS * BLOCK_TOKENS
        for saved in copies:
            n_tokens = _n_common(saved.hashes, hashes) * BLOCK_TOKENS
            if n_tokens >= least and saved.begins(request.tokens, n_tokens):
                best, least = Recalled(saved, n_tokens), n_tokens + 1
        return best

    def wants_fetch(self, request: Request) -> bool:
        """Whether a file holds more of a request than memory and the copies do."""
        if self.disk is None or not request.shares:
            return False
        hashes = _usable(request)
        n_enough = self.disk.n_covered(hashes) - LEAST_BLOCKS + 1
        if n_enough < 1 or self._ram.n_covered(hashes) >= n_enough:
            return False
        return self._store.locate(hashes[:n_enough]) is None

    def fetch(self, request: Request, deliver: Callable[[SavedPrefix | None], None]) -> None:
        """Read the file for a request that wants it; `deliver` is called from another thread."""
        assert self.disk is not None
        self.disk.fetch(_usable(request), deliver)

    def fetched(self, request: Request, saved: SavedPrefix | None) -> None:
        """What a request waited for has come; None: it was no good."""
        request.fetched = saved
        if saved is not None and saved.hashes[-1] not in self._ram:
            self._ram.add(saved)

    def recalled(self, request: Request, recalled: Recalled) -> None:
        """A request went on after a saved prefix."""
        self.counters.n_recalls += 1
        self.counters.n_recalled_tokens += recalled.n_tokens
        self.counters.n_disk_recalls += request.fetched is recalled.saved
        request.fetched = None

    def refused(self, request: Request, recalled: Recalled, error: BackendError) -> None:
        """A step that began with a saved prefix failed; what a stage does not take is deleted."""
        log.warning("a saved prefix of %d tokens was not used: %s", recalled.n_tokens, error)
        request.fetched = None
        if isinstance(error, ForeignState):
            self._ram.discard(recalled.saved)
            if self.disk is not None:
                self.disk.forget(recalled.saved.hashes)

    def close(self) -> None:
        """End the threads; a write under way is finished."""
        if self.disk is not None:
            self.disk.close()

    def check(self) -> None:
        """Raise AssertionError unless the books of the copies are in order."""
        self._ram.check()


def _usable(request: Request) -> Sequence[bytes]:
    """The hashes of the blocks that leave at least one token to compute."""
    return request.block_hashes[: (len(request.tokens) - 1) // BLOCK_TOKENS]


def _n_common(ours: Sequence[bytes], theirs: Sequence[bytes]) -> int:
    for n, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return n
    return min(len(ours), len(theirs))
