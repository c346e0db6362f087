"""The simulated model's specification and tokenizer, as a "sim:" path describes it."""

from __future__ import annotations

import hashlib

from hearth_backends.base import LoadedModel
from hearth_backends.sim.options import SimOptions, parse_options
from hearth_backends.sim.tokenizer import BOS, CHAT_TEMPLATE, ByteTokenizer
from hearth_backends.weights.encoding import EncodingSpec
from hearth_backends.weights.spec import ModelSpec, RopeSpec, TensorInfo

D_MODEL = 5
"""Floats of a hidden state: 64 bits in four pieces, and the token."""
LAYER_BYTES = 1 << 16
OUTER_BYTES = 1 << 18


def open_sim(path: str) -> LoadedModel:
    """The simulated model of a path "sim:name=value,..."; raises ModelFileError."""
    options = parse_options(path)
    tokenizer = ByteTokenizer(options.vocab, add_bos=bool(options.bos))
    tensors = _tensors(options)
    spec = ModelSpec(
        path=None,
        format="sim",
        digest=_digest(options),
        name=path,
        architecture="sim",
        n_layers=options.layers,
        d_model=D_MODEL,
        n_heads=1,
        n_kv_heads=1,
        head_dim=D_MODEL,
        d_ff=D_MODEL,
        n_vocab=options.vocab,
        context_trained=options.context,
        norm_eps=1e-6,
        rope=RopeSpec(theta=10000.0, n_dims=D_MODEL),
        tied_embeddings=False,
        quantization="F32",
        file_bytes=sum(tensor.n_bytes for tensor in tensors.values()),
        n_parameters=sum(tensor.n_bytes // 4 for tensor in tensors.values()),
        chat_template=CHAT_TEMPLATE,
        bos_id=BOS if options.bos else None,
        eos_id=tokenizer.eos_id,
        end_ids=tokenizer.end_ids,
        add_bos=bool(options.bos),
        tensors=tensors,
        encoding=_encoding(options),
    )
    return LoadedModel(spec, tokenizer)


def _encoding(options: SimOptions) -> EncodingSpec:
    if options.task == "generate":
        return EncodingSpec()
    ranks = options.task == "rerank"
    return EncodingSpec(pooling="rank" if ranks else "mean", generates=False, ranks=ranks)


def _digest(options: SimOptions) -> str:
    """Names the function that the model computes: variants and faults do not change it."""
    facts: tuple[object, ...] = (
        options.seed, options.vocab, options.layers, options.says, options.bos
    )  # fmt: skip
    if options.task != "generate":
        facts = (options.task, options.dim, options.seed, options.vocab, options.bos)
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _tensors(options: SimOptions) -> dict[str, TensorInfo]:
    """Tensors that are only sizes, for whoever plans with bytes per layer."""
    sizes: list[tuple[str, int, int | None]] = [("model.embed_tokens.weight", OUTER_BYTES, None)]
    sizes += [(f"model.layers.{i}.weight", LAYER_BYTES, i) for i in range(options.layers)]
    sizes += [("lm_head.weight", OUTER_BYTES, None)]
    return {
        name: TensorInfo(name, name, (n_bytes // 4,), "F32", n_bytes, layer)
        for name, n_bytes, layer in sizes
    }
