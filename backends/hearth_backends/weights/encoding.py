"""EncodingSpec: what a model's file says of turning texts into vectors, or pairs of texts into scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Pooling: TypeAlias = Literal["none", "mean", "cls", "last", "rank"]
"""How the vectors of a text's tokens become one; "rank": a head scores the pair instead."""


@dataclass(frozen=True, slots=True)
class EncodingSpec:
    """Of a model that only generates everything is as here."""

    pooling: Pooling | None = None  # None: the file does not say
    generates: bool = True  # whether it also continues texts
    ranks: bool = False  # whether it has a head that scores pairs
    labels: tuple[str, ...] = ()  # of the head's outputs, where it names them
    pair_template: str | None = None  # text of a pair, with {query} and {document} in it


GENERATES = EncodingSpec()
"""What is said of models that were made to generate."""
