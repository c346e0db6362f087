"""Purse: what guesses of one source may still lose, in plain steps.

It begins with a little, earns a share of each decoding step and all that guessing has really gained,
and pays what it has lost. While it is empty nothing is guessed, so that wrong promises cost no more
than that share in the long run.
"""

from __future__ import annotations

MODEL_START = 16.0
"""A draft model has to see a prompt before it can be tried."""
LOOKUP_START = 4.0
MOST = 200.0
"""A good past does not pay for any amount of loss."""
SHARE = 0.02
"""Of each plain step."""
_REOPENS = 4.0


class Purse:
    """A balance, in steps of plain decoding."""

    __slots__ = ("_empty", "balance")

    def __init__(self, start: float) -> None:
        self.balance = start
        self._empty = False

    @property
    def is_open(self) -> bool:
        """Whether there is something to lose; once it was empty, only when some has gathered again."""
        if self._empty and self.balance >= _REOPENS:
            self._empty = False
        return not self._empty

    def earn(self, n_steps: float) -> None:
        """The tokens of so many plain steps were decoded, whoever guessed."""
        self._add(SHARE * n_steps)

    def settle(self, n_steps: float) -> None:
        """A step with guesses of this source has saved so many plain steps; negative: it has lost them."""
        self._add(n_steps)

    def _add(self, n_steps: float) -> None:
        self.balance = min(MOST, self.balance + n_steps)
        if self.balance <= 0.0:
            self._empty = True
