"""Models for the backends' tests: a real one where it is at hand, and tiny random ones of any architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from shared_models import shared_model
from tiny_vocabulary import N_VOCAB, write_vocabulary

from hearth_backends.base import LoadedModel

if TYPE_CHECKING:
    from gguf_runner import Runner

MakeGguf = Callable[..., Path]


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of a tiny model."""

    architecture: str = "llama"
    n_layers: int = 4
    d_model: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 16
    d_ff: int = 128
    context: int = 512
    quant: str = "F32"
    tied: bool = False
    window: int = 0  # 0: no sliding window
    original_context: int = 0  # 0: no rope factors for long contexts
    rope_factors: bool = False  # Llama 3's, one for each pair of dimensions
    seed: int = 0


@pytest.fixture(scope="session")
def stories() -> Path:
    """stories260K, a real Llama with a SentencePiece vocabulary that nobody here wrote."""
    return shared_model("stories260K.gguf")


@pytest.fixture(scope="session")
def make_gguf(tmp_path_factory: pytest.TempPathFactory) -> MakeGguf:
    """Writes a random model of the given Shape fields and returns its path; the same fields, the same file."""
    folder = tmp_path_factory.mktemp("models")
    made: dict[Shape, Path] = {}

    def make(**fields: object) -> Path:
        shape = Shape(**fields)  # type: ignore[arg-type]
        if shape not in made:
            made[shape] = folder / f"{shape.architecture}-{len(made)}.gguf"
            write_model(made[shape], shape)
        return made[shape]

    return make


@pytest.fixture(scope="session")
def lily(stories: Path) -> LoadedModel:
    """stories260K, opened."""
    pytest.importorskip("llama_cpp")
    from hearth_backends.gguf.vocab import open_gguf

    return open_gguf(str(stories))


@pytest.fixture(params=["one-pool", "pools"])
def kv_tokens(request: pytest.FixtureRequest) -> int:
    """Memory for two sequences of six, or for all: cells are shared then, or everybody has its own."""
    return {"one-pool": 512, "pools": 1536}[request.param]


@pytest.fixture
def runner(lily: LoadedModel, kv_tokens: int) -> Iterator[Runner]:
    """stories260K, loaded whole."""
    from gguf_runner import Runner, whole_spec

    with closing(Runner(lily, [whole_spec(lily, kv_tokens=kv_tokens)])) as runner:
        yield runner


@pytest.fixture(scope="session")
def tiny(make_gguf: MakeGguf) -> LoadedModel:
    """A tiny random Llama, opened."""
    pytest.importorskip("llama_cpp")
    from hearth_backends.gguf.vocab import open_gguf

    return open_gguf(str(make_gguf()))


@pytest.fixture
def tiny_runner(tiny: LoadedModel, kv_tokens: int) -> Iterator[Runner]:
    """The tiny Llama, loaded whole."""
    from gguf_runner import Runner, whole_spec

    with closing(Runner(tiny, [whole_spec(tiny, kv_tokens=kv_tokens)])) as runner:
        yield runner


def write_model(path: Path, shape: Shape) -> None:
    """A random model with a byte-level vocabulary: 256 bytes, one merge, and two control tokens."""
    writer = gguf.GGUFWriter(path, shape.architecture)
    _write_metadata(writer, shape)
    write_vocabulary(writer)
    quant = gguf.GGMLQuantizationType[shape.quant]
    for name, values in _tensors(shape).items():
        if values.ndim < 2 or quant is gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, quant), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("tiny")
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.d_model)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.d_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    if shape.window:
        writer.add_sliding_window(shape.window)
    if shape.original_context:
        writer.add_rope_scaling_orig_ctx_len(shape.original_context)


def _tensors(shape: Shape) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(shape.seed)

    def matrix(n_out: int, n_in: int) -> NDArray[np.float32]:
        scale = np.float32(1.5 / np.sqrt(n_in))
        return np.multiply(random.standard_normal((n_out, n_in), np.float32), scale)

    def norm(n: int) -> NDArray[np.float32]:
        return random.uniform(0.7, 1.3, n).astype(np.float32)

    d, q, kv = shape.d_model, shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    tensors = {"token_embd.weight": matrix(N_VOCAB, d) * 4, "output_norm.weight": norm(d)}
    if shape.original_context:
        tensors["rope_factors_long.weight"] = random.uniform(2, 9, shape.head_dim // 2).astype("f4")
        tensors["rope_factors_short.weight"] = random.uniform(1, 2, shape.head_dim // 2).astype(
            "f4"
        )
    if shape.rope_factors:
        tensors["rope_freqs.weight"] = random.uniform(1, 8, shape.head_dim // 2).astype("f4")
    if not shape.tied and not shape.architecture.startswith("gemma"):
        tensors["output.weight"] = matrix(N_VOCAB, d) * 2
    for i in range(shape.n_layers):
        layer = {
            "attn_norm.weight": norm(d),
            "attn_output.weight": matrix(d, q),
            "ffn_norm.weight": norm(d),
            "ffn_down.weight": matrix(d, shape.d_ff),
        }
        if shape.architecture == "phi3":
            layer["attn_qkv.weight"] = matrix(q + 2 * kv, d)
            layer["ffn_up.weight"] = matrix(2 * shape.d_ff, d)
        else:
            for part, n in (("q", q), ("k", kv), ("v", kv)):
                layer[f"attn_{part}.weight"] = matrix(n, d)
                if shape.architecture == "qwen2":
                    layer[f"attn_{part}.bias"] = norm(n) - 1
            layer["ffn_gate.weight"] = matrix(shape.d_ff, d)
            layer["ffn_up.weight"] = matrix(shape.d_ff, d)
        if shape.architecture in ("qwen3", "gemma3"):
            layer["attn_q_norm.weight"] = norm(shape.head_dim)
            layer["attn_k_norm.weight"] = norm(shape.head_dim)
        if shape.architecture in ("gemma2", "gemma3"):
            layer["post_attention_norm.weight"] = norm(d)
            layer["post_ffw_norm.weight"] = norm(d)
        tensors |= {f"blk.{i}.{name}": values for name, values in layer.items()}
    return tensors
