"""Recipe: which decoders graphs can be built for, and heads as ONNX Runtime takes them; pure."""

from __future__ import annotations

from hearth_backends.base import Support
from hearth_backends.weights import recipe
from hearth_backends.weights.recipe import LayerRecipe, has_tensor, recipe_support
from hearth_backends.weights.spec import ModelSpec

HEAD_STEP = 16
"""ONNX Runtime's attention takes heads of multiples of this."""


def model_support(model: ModelSpec) -> Support:
    """Whether decoder graphs can be built for a model."""
    support = recipe_support(model)
    if not support.ok:
        return support
    if model.rope.n_dims % HEAD_STEP and model.rope.n_dims != model.head_dim:
        return Support(
            False, f"it cannot rotate {model.rope.n_dims} of {model.head_dim} dimensions"
        )
    if has_tensor(model, "self_attn.q_norm.weight") and model.head_dim % HEAD_STEP:
        return Support(False, f"it cannot fill up normed heads of {model.head_dim} dimensions")
    return Support(True)


def padded_head_dim(model: ModelSpec) -> int:
    """The length of a head in key-value memory."""
    return -(-model.head_dim // HEAD_STEP) * HEAD_STEP


def layer_recipe(model: ModelSpec, layer: int) -> LayerRecipe:
    """What layer `layer` is emitted from."""
    return recipe.layer_recipe(model, layer, padded_head_dim(model))
