"""`python cache_writer.py FILE FIRST`: keep answers in a cache, one after the other, until killed.

Prints the number of each once it is kept; `answer` and `fingerprint_of` are the same for who checks.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path

from hearthd import wire
from hearthd.cache.counts import Counts
from hearthd.cache.exact import ExactCache
from hearthd.cache.fingerprint import Fingerprint, Scope
from hearthd.cache.recording import Recording

SCOPE = Scope("key:a", "canary", "d" * 64)


def fingerprint_of(number: int) -> Fingerprint:
    """Of the answer with a number."""
    return Fingerprint(hashlib.blake2b(b"%d" % number, digest_size=32).digest(), SCOPE)


def answer(number: int) -> Recording:
    """The answer with a number: up to some 60 kB that do not compress."""
    noise = hashlib.shake_256(b"%d" % number).hexdigest(10 + number * 7919 % 30_000)
    delta = wire.Delta(0, noise, [number], finish="stop", usage=wire.Usage(1, 1, 0))
    return Recording(fingerprint_of(number).key, f"id-{number}", 1_700_000_000, [[(0, delta)]])


def exact_cache(path: Path) -> ExactCache:
    """So small that answers have to make way all the time."""
    return ExactCache(path, Counts(), budget_bytes=2_000_000, entry_bytes=1_000_000, ttl_seconds={})


async def write(path: Path, first: int) -> None:
    """Keep answers, several at once."""
    cache = exact_cache(path)
    await cache.open()

    async def keep(number: int) -> None:
        await cache.put(fingerprint_of(number), answer(number), 1.0, f"question {number}")
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()

    number = first
    while True:
        await asyncio.gather(*(keep(number + i) for i in range(4)))
        number += 4


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
