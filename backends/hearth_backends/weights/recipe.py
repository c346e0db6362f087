"""Recipe: which matrices and norms the layers of a known decoder are made of; pure."""

from __future__ import annotations

from dataclasses import dataclass

from hearth_backends.base import Support
from hearth_backends.weights.gguf_names import CANONICAL
from hearth_backends.weights.matrix import Heads, Matrix, Part
from hearth_backends.weights.spec import ModelSpec

_LAYER_TENSORS = frozenset(
    {
        "input_layernorm.weight",
        "self_attn.q_proj.weight", "self_attn.q_proj.bias",
        "self_attn.k_proj.weight", "self_attn.k_proj.bias",
        "self_attn.v_proj.weight", "self_attn.v_proj.bias",
        "self_attn.qkv_proj.weight",
        "self_attn.q_norm.weight", "self_attn.k_norm.weight",
        "self_attn.o_proj.weight", "self_attn.o_proj.bias",
        "post_attention_layernorm.weight",
        "pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight",
        "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.gate_up_proj.weight",
        "mlp.down_proj.weight",
    }
)  # fmt: skip
HEAD = "head"
"""What the output matrix is called."""
_OUTER_TENSORS = frozenset(
    {
        "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
        "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight",
    }
)  # fmt: skip
_SCALINGS = frozenset({"none", "linear", "yarn", "llama3", "longrope"})


def unknown_tensors(model: ModelSpec) -> list[str]:
    """Tensors that no recipe takes in, and that a decoder made of recipes would leave out."""
    unknown = []
    for tensor in model.tensors.values():
        if tensor.layer is None:
            if tensor.name not in _OUTER_TENSORS:
                unknown.append(tensor.name)
        elif tensor.name.removeprefix(f"model.layers.{tensor.layer}.") not in _LAYER_TENSORS:
            unknown.append(tensor.name)
    return unknown


def recipe_support(model: ModelSpec) -> Support:
    """Whether a decoder made of recipes is the model's; no with the reason in words."""
    if model.format == "sim" or model.path is None:
        return Support(False, "it reads model files, and a simulated model has none")
    if model.architecture not in CANONICAL:
        known = ", ".join(sorted(CANONICAL))
        return Support(False, f"it has decoders for {known}, not for {model.architecture}")
    unknown = unknown_tensors(model)
    if unknown:
        return Support(
            False, f"it does not know what these tensors are for: {', '.join(unknown[:5])}"
        )
    if model.rope.scaling not in _SCALINGS:
        return Support(False, f"it does not know the rope scaling {model.rope.scaling!r:.40}")
    return Support(True)


def has_tensor(model: ModelSpec, suffix: str, layer: int = 0) -> bool:
    """Whether a layer has a tensor of that name."""
    return f"model.layers.{layer}.{suffix}" in model.tensors


@dataclass(frozen=True, slots=True)
class LayerRecipe:
    """The weights of one layer."""

    input_norm: Matrix
    qkv: Matrix
    qkv_bias: Matrix | None
    q_norm: Matrix | None
    k_norm: Matrix | None
    output: Matrix
    output_bias: Matrix | None
    post_attention_norm: Matrix | None  # of what attention gives, before it is added (Gemma 2, 3)
    mlp_norm: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    post_mlp_norm: Matrix | None


def layer_recipe(model: ModelSpec, layer: int, padded: int | None = None) -> LayerRecipe:
    """What layer `layer` is made of; `padded`: the length that each head is filled up to."""
    at = f"model.layers.{layer}."
    padded = model.head_dim if padded is None else padded
    sandwiched = has_tensor(model, "pre_feedforward_layernorm.weight", layer)
    gate, up = _gate_and_up(model, at)
    return LayerRecipe(
        input_norm=_vector(model, at + "input_layernorm.weight"),
        qkv=_qkv(model, at, padded),
        qkv_bias=_qkv_bias(model, at, padded),
        q_norm=_vector_or_none(model, at + "self_attn.q_norm.weight"),
        k_norm=_vector_or_none(model, at + "self_attn.k_norm.weight"),
        output=_output(model, at, padded),
        output_bias=_vector_or_none(model, at + "self_attn.o_proj.bias"),
        post_attention_norm=(
            _vector(model, at + "post_attention_layernorm.weight") if sandwiched else None
        ),
        mlp_norm=_vector(
            model,
            at + ("pre_feedforward" if sandwiched else "post_attention") + "_layernorm.weight",
        ),
        gate=gate,
        up=up,
        down=_whole(model, at + "mlp.down_proj.weight"),
        post_mlp_norm=(
            _vector(model, at + "post_feedforward_layernorm.weight") if sandwiched else None
        ),
    )


def final_norm(model: ModelSpec) -> Matrix:
    """The weights of the norm before the head."""
    return _vector(model, "model.norm.weight")


def head_matrix(model: ModelSpec) -> Matrix:
    """The output matrix; the embedding where the model has no other."""
    tied = "lm_head.weight" not in model.tensors
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    n_rows, n_in = model.tensors[name].shape
    return Matrix(HEAD, (Part(name, n_rows),), n_in)


def _qkv(model: ModelSpec, at: str, padded: int) -> Matrix:
    return Matrix(at + "qkv", _qkv_parts(model, at, "weight", padded), model.d_model)


def _qkv_bias(model: ModelSpec, at: str, padded: int) -> Matrix | None:
    if at + "self_attn.q_proj.bias" not in model.tensors:
        return None
    return Matrix(at + "qkv.bias", _qkv_parts(model, at, "bias", padded), 1)


def _qkv_parts(model: ModelSpec, at: str, kind: str, padded: int) -> tuple[Part, ...]:
    fused = f"{at}self_attn.qkv_proj.{kind}"
    parts = []
    first = 0
    for letter, n_heads in (("q", model.n_heads), ("k", model.n_kv_heads), ("v", model.n_kv_heads)):
        n_rows = n_heads * model.head_dim
        heads = Heads(n_heads, model.head_dim, padded, rotated=letter != "v")
        if fused in model.tensors:
            parts.append(Part(fused, n_rows, first, heads))
            first += n_rows
        else:
            parts.append(Part(f"{at}self_attn.{letter}_proj.{kind}", n_rows, 0, heads))
    return tuple(parts)


def _output(model: ModelSpec, at: str, padded: int) -> Matrix:
    name = at + "self_attn.o_proj.weight"
    heads = Heads(model.n_heads, model.head_dim, padded)
    n_in = model.n_heads * model.head_dim
    return Matrix(name, (Part(name, model.d_model),), n_in, heads)


def _gate_and_up(model: ModelSpec, at: str) -> tuple[Matrix, Matrix]:
    fused = at + "mlp.gate_up_proj.weight"
    if fused not in model.tensors:
        return _whole(model, at + "mlp.gate_proj.weight"), _whole(model, at + "mlp.up_proj.weight")
    n = model.tensors[fused].shape[0] // 2
    return (
        Matrix(at + "gate", (Part(fused, n),), model.d_model),
        Matrix(at + "up", (Part(fused, n, n),), model.d_model),
    )


def _whole(model: ModelSpec, name: str) -> Matrix:
    n_rows, n_in = model.tensors[name].shape
    return Matrix(name, (Part(name, n_rows),), n_in)


def _vector(model: ModelSpec, name: str) -> Matrix:
    return Matrix(name, (Part(name, model.tensors[name].shape[0]),), 1)


def _vector_or_none(model: ModelSpec, name: str) -> Matrix | None:
    return _vector(model, name) if name in model.tensors else None
