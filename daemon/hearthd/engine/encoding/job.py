"""Job: one request for vectors or scores on its way through an encoding engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hearth_backends.encoder import Vectors, unit_length
from hearthd.engine.request import Account, Priority


@dataclass(frozen=True, slots=True)
class Text:
    """One input; `second`: where the second text of a pair begins."""

    tokens: list[int]
    second: int | None = None


@dataclass(slots=True, eq=False)
class Job:
    """Texts, which of them are computed, and what becomes of the vectors.

    The shortest texts go first, so that a batch holds texts of like lengths; results are in the
    order of the texts.
    """

    id: int
    texts: list[Text]
    n_prompt: int  # tokens as the client counts them
    dimensions: int | None = None  # of a vector that is cut; None: all
    priority: Priority = field(default_factory=Priority)

    account: Account | None = None  # of its key, while it is in the queue
    served: float = 0.0  # tokens computed, from where the other jobs of its key were
    turn_seconds: float = 0.0  # when it came, or last had a text in a batch
    started_seconds: float | None = None
    n_failures: int = 0  # batches with a text of it that failed
    n_done: int = 0
    waiting: list[int] = field(init=False)  # texts that are in no batch yet, the last goes first
    results: Vectors | None = None  # [n, dim]

    def __post_init__(self) -> None:
        lengths = [len(text.tokens) for text in self.texts]
        self.waiting = sorted(range(len(lengths)), key=lambda i: (-lengths[i], -i))

    @property
    def is_done(self) -> bool:
        """Whether every text is computed."""
        return self.n_done == len(self.texts)

    def keep(self, index: int, vector: Vectors) -> None:
        """The result of one text, [dim]."""
        if self.results is None:
            self.results = np.empty((len(self.texts), len(vector)), np.float32)
        self.results[index] = vector
        self.n_done += 1

    def values(self) -> Vectors:
        """Every result, cut to the dimensions asked for and made of length 1 again; [n, dim]."""
        assert self.results is not None
        if self.dimensions is None or self.dimensions == self.results.shape[1]:
            return self.results
        return unit_length(self.results[:, : self.dimensions])
