"""Which architectures llama.cpp can run in part, and what each needs for that; pure.

Facts from llama.cpp's graphs (src/models/*.cpp of the pinned version), each proved by a test that
compares two stages with the whole model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from hearth_backends.base import StageSpec, Support
from hearth_backends.weights.gguf_names import NOT_DECODERS
from hearth_backends.weights.spec import ModelSpec

NOT_LEFT_TO_RIGHT = frozenset({"dream", "llada", "llada-moe", "rnd1", "t5"})
"""Diffusion and encoder-decoder models: no continuation token by token."""
WINDOWED = frozenset(
    {
        "gemma2", "gemma3", "gemma3n", "gemma4", "gpt-oss", "cohere2", "cohere2moe", "exaone4",
        "exaone-moe", "llama4", "smallthinker", "plamo3", "mimo2", "step35", "olmo2", "afmoe",
        "granite_swa", "laguna", "mellum", "maple", "muse-glimmer", "talkie", "spark2_5", "hy_v4",
    }
)  # fmt: skip
"""Architectures of which llama.cpp may overwrite cells that have left a layer's sliding window."""


class Readout(Enum):
    """How hidden states leave a stage that has no head."""

    LAYER_INPUT = "layer input"  # of one more layer, of zeros: llama.cpp keeps what enters it
    NODE_CALLBACK = "node callback"  # of the last layer's output; stops the graph there


@dataclass(frozen=True, slots=True)
class Cut:
    """What an architecture needs to run in part."""

    readout: Readout
    scales_tokens: bool = False  # embeddings are multiplied by sqrt(d_model) on their way in
    scales_vectors: bool = False  # so are vectors given in their place: they are divided first
    window_period: int = 0  # every n-th layer sees all tokens, the others a window; 0: no such
    forbidden_depth: int = 0  # llama.cpp takes a model of so many layers for another one


CUTS = {
    "llama": Cut(Readout.LAYER_INPUT),
    "qwen3": Cut(Readout.LAYER_INPUT),
    "qwen2": Cut(Readout.NODE_CALLBACK),
    "phi3": Cut(Readout.NODE_CALLBACK),
    "gemma2": Cut(
        Readout.NODE_CALLBACK, True, scales_vectors=True, window_period=2, forbidden_depth=46
    ),
    "gemma3": Cut(Readout.NODE_CALLBACK, True, window_period=6, forbidden_depth=62),
}


def is_whole(model: ModelSpec, spec: StageSpec) -> bool:
    """Whether a stage is the whole model, from tokens to samples."""
    return spec.embed and spec.head and (spec.first, spec.last) == (0, model.n_layers)


def model_support(model: ModelSpec) -> Support:
    """Whether llama.cpp, as this backend drives it, runs the whole model."""
    architecture = model.architecture
    if model.format != "gguf":
        return Support(False, f"it reads GGUF files, not {model.format}")
    if architecture in NOT_DECODERS | NOT_LEFT_TO_RIGHT:
        return Support(False, f"architecture {architecture} does not generate text token by token")
    return Support(True)


def range_support(model: ModelSpec, spec: StageSpec) -> Support:
    """Whether the layers of a stage can be run without the others."""
    if is_whole(model, spec):
        return Support(True)
    cut = CUTS.get(model.architecture)
    if cut is None:
        return Support(
            False,
            f"architecture {model.architecture} runs whole only; in part run {', '.join(sorted(CUTS))}",
        )
    if any("exps" in name for name in model.tensors):
        return Support(False, "mixture-of-experts models run whole only")
    if not 0 <= spec.first < spec.last <= model.n_layers:
        return Support(False, f"layers {spec.first} to {spec.last} of {model.n_layers}")
    if cut.forbidden_depth and cut.forbidden_depth in (model.n_layers, spec.last - spec.first):
        return Support(
            False,
            f"llama.cpp computes {cut.forbidden_depth} layers of {model.architecture} differently",
        )
    return Support(True)


def token_scale(model: ModelSpec) -> float:
    """What a row of the embedding is multiplied by to become what enters layer 0."""
    cut = CUTS[model.architecture]
    return math.sqrt(model.d_model) if cut.scales_tokens else 1.0


def vector_divisor(model: ModelSpec) -> float:
    """What hidden states are divided by before llama.cpp multiplies them by the same."""
    cut = CUTS[model.architecture]
    return math.sqrt(model.d_model) if cut.scales_vectors else 1.0


def shares_prefixes(model: ModelSpec, n_ctx: int) -> bool:
    """Whether a sequence's early tokens stay usable for others while it goes on."""
    if model.architecture not in WINDOWED:
        return True
    return model.sliding_window is not None and n_ctx <= model.sliding_window
