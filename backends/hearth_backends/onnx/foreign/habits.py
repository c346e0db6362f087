"""Habits: what a graph made elsewhere does beyond its signature, found out by letting it compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import F32
from hearth_backends.errors import BackendError, StepError, Unsupported

NEAR = 0.1
"""Of the spread of logits: two ways to compute the same may differ by as much (8-bit activations round)."""
N_TOKENS = 6


@dataclass(frozen=True, slots=True)
class Habits:
    """What may be asked of a graph."""

    last_only: bool = False  # logits of a sequence's last token only
    continues: bool = True  # several tokens at once after keys and values
    pads: bool = True  # sequences of different lengths in one run

    def described(self) -> str:
        """In words, what it does not do."""
        lacking = [
            words
            for holds, words in (
                (self.last_only, "logits of the last token only"),
                (not self.continues, "one token at a time after keys and values"),
                (not self.pads, "only sequences of one length in a run"),
            )
            if holds
        ]
        return ", ".join(lacking)


class Computer(Protocol):
    """Computes in slots, whatever is in them."""

    def compute(
        self, slots: Sequence[int], before: Sequence[int], tokens: NDArray[np.int64]
    ) -> F32:
        """Tokens [n, length] after the first `before` of each slot: logits [n, length or 1, n_vocab].

        Their keys and values are in the slots afterwards. Raises StepError.
        """


def find_habits(graph: Computer, *, n_vocab: int, n_slots: int, alone: bool) -> Habits:
    """Compute a text at once and in parts; raises Unsupported where the parts do not give the whole.

    What slots held is lost.
    """
    text = _text(n_vocab)
    whole = graph.compute([0], [0], text)
    if not np.isfinite(whole).all():
        raise BackendError("what comes out of the model is not a number")
    last, spread = whole[0, -1], max(float(whole[0, -1].std()), 1e-6)

    def is_near(logits: F32) -> bool:
        return float(np.sqrt(np.square(logits - last).mean())) <= NEAR * spread

    graph.compute([0], [0], text[:, :-1])
    single = graph.compute([0], [N_TOKENS - 1], text[:, -1:])
    if not is_near(single[0, -1]):
        raise Unsupported(
            "its keys and values are of no use: the token after five gives other logits than six at once"
        )
    shares = not alone and n_slots > 1
    return Habits(
        last_only=whole.shape[1] == 1,
        continues=_tries(lambda: _continued(graph, text), is_near),
        pads=shares and _tries(lambda: _padded(graph, text), is_near),
    )


def _continued(graph: Computer, text: NDArray[np.int64]) -> F32:
    """The last logits, three tokens after three."""
    graph.compute([0], [0], text[:, :3])
    last: F32 = graph.compute([0], [3], text[:, 3:])[0, -1]
    return last


def _padded(graph: Computer, text: NDArray[np.int64]) -> F32:
    """The last logits beside a longer sequence, which comes first."""
    graph.compute([0], [0], np.concatenate([text, text[:, ::-1]], axis=1))
    graph.compute([1], [0], text[:, :-1])
    both = np.stack([text[0, :1], text[0, -1:]])
    last: F32 = graph.compute([0, 1], [2 * N_TOKENS, N_TOKENS - 1], both)[1, -1]
    return last


def _tries(compute: Any, is_near: Any) -> bool:
    """Whether it is computed at all, and rightly."""
    try:
        return bool(is_near(compute()))
    except StepError:
        return False


def _text(n_vocab: int) -> NDArray[np.int64]:
    """Tokens from all over the vocabulary [1, N_TOKENS]."""
    return (np.arange(1, N_TOKENS + 1) * 7919 % n_vocab)[None, :].astype(np.int64)
