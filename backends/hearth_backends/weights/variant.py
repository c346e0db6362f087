"""Variant: the numbers of a decoder that neither its dimensions nor its tensors show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hearth_backends.weights.rope import RopeTable


@dataclass(frozen=True, slots=True)
class Variant:
    """How a decoder computes, layer by layer, where decoders differ."""

    attention_scale: float  # of query times key
    ropes: tuple[RopeTable, ...]
    rope_of: tuple[int, ...]  # for each layer, which of `ropes`
    windows: tuple[int, ...]  # for each layer, tokens that a row attends to; 0: all before it
    attention_softcap: float = 0.0  # 0: none
    logit_softcap: float = 0.0  # 0: none
    token_scale: float = 1.0  # of embeddings on their way into layer 0
    norm_offset: float = 0.0  # added to the weights of norms
    activation: Literal["silu", "gelu_tanh"] = "silu"


def alternating(n_layers: int, period: int, window: int | None) -> tuple[int, ...]:
    """Windows where every layer but each period-th has one; period 0: no layer, 1: every layer."""
    if window is None or period == 0:
        return (0,) * n_layers
    if period == 1:
        return (window,) * n_layers
    return tuple(0 if (i + 1) % period == 0 else window for i in range(n_layers))
