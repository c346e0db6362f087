"""HashChain: the chained block hashes of one sequence, computed once as its tokens arrive."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from hearth_backends.kv.contract import BLOCK_TOKENS

_DIGEST_BYTES = 16


class HashChain:
    """Names every full block of a sequence by everything before and in it.

    Two blocks have the same hash exactly when model, adapter, salt and all tokens up to their ends
    are the same, so a hash found in a store vouches for the whole prefix.
    """

    __slots__ = ("_hashes", "_link", "_n_next")

    def __init__(self, digest: str, *, adapter: str = "", salt: str = "") -> None:
        """`digest` names the model, `adapter` its LoRA adapter, `salt` who may share the prefix."""
        self._link = _first_link(digest, adapter, salt)
        self._hashes: list[bytes] = []
        self._n_next = BLOCK_TOKENS  # tokens at which the next block is full

    def upto(self, tokens: Sequence[int]) -> Sequence[bytes]:
        """One hash for each full block of `tokens`, which may only have grown since the last call.

        The same list is returned each time; it is not the caller's to change.
        """
        if len(tokens) >= self._n_next:
            self._extend(tokens)
        return self._hashes

    def _extend(self, tokens: Sequence[int]) -> None:
        link = self._link
        for end in range(self._n_next, len(tokens) + 1, BLOCK_TOKENS):
            block = array("i", tokens[end - BLOCK_TOKENS : end]).tobytes()
            link = blake2b(link + block, digest_size=_DIGEST_BYTES).digest()
            self._hashes.append(link)
        self._link = link
        self._n_next = (len(self._hashes) + 1) * BLOCK_TOKENS


def _first_link(*parts: str) -> bytes:
    """A hash of strings, each behind its length, so that no two lists of strings meet."""
    hasher = blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        encoded = part.encode()
        hasher.update(len(encoded).to_bytes(8, "little"))
        hasher.update(encoded)
    return hasher.digest()
