"""Renderings: answers in memory as the very bytes that clients get, for those asked for again and again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from hearthd.cache.fingerprint import Scope

_OVERHEAD_BYTES = 500  # of the objects around the bytes


@dataclass(frozen=True, slots=True)
class Rendering:
    """The body of an answer, or all events of a stream."""

    body: bytes
    scope: Scope
    created: int  # unix seconds
    cost_seconds: float
    n_tokens: int  # of prompt and output


class Renderings:
    """By fingerprint, and by the hash of how each is to be worded; the least recently used go first."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[bytes, dict[bytes, Rendering]] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def get(self, key: bytes, wording: bytes) -> Rendering | None:
        """The bytes of an answer, in this wording."""
        rendering = self._kept.get(key, _NONE).get(wording)
        if rendering is not None:
            self._kept.move_to_end(key)
        return rendering

    def put(self, key: bytes, wording: bytes, rendering: Rendering) -> None:
        """Keep one, where it takes no more than a quarter of all there is."""
        size = _size(rendering)
        if size * 4 > self._budget_bytes:
            return
        worded = self._kept.setdefault(key, {})
        before = worded.pop(wording, None)
        self.n_bytes += size - (0 if before is None else _size(before))
        worded[wording] = rendering
        self._kept.move_to_end(key)
        while self.n_bytes > self._budget_bytes and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))
        if self.n_bytes > self._budget_bytes:  # one answer in too many wordings
            self.drop(key)

    def drop(self, key: bytes) -> None:
        """Forget an answer, however it is worded."""
        for rendering in self._kept.pop(key, _NONE).values():
            self.n_bytes -= _size(rendering)

    def drop_scopes(self, goes: Callable[[bytes, Scope], bool]) -> None:
        """Forget answers whose fingerprint and scope `goes` says yes to."""
        for key, worded in list(self._kept.items()):
            if any(goes(key, rendering.scope) for rendering in worded.values()):
                self.drop(key)


_NONE: dict[bytes, Rendering] = {}


def _size(rendering: Rendering) -> int:
    return len(rendering.body) + _OVERHEAD_BYTES
