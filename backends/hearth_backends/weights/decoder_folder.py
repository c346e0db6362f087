"""A decoder in ONNX made elsewhere: a folder in onnxruntime-genai's layout or in Optimum's, or a file of one."""

from __future__ import annotations

from pathlib import Path

from hearth_backends.base import LoadedModel
from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.checkpoint import with_tokens
from hearth_backends.weights.checkpoint_config import Config
from hearth_backends.weights.checkpoint_tokenizer import CheckpointTokenizer, chat_template_of
from hearth_backends.weights.decoder_config import DecoderConfig, from_genai, from_transformers
from hearth_backends.weights.decoder_names import DecoderNames, numbered
from hearth_backends.weights.encoder_config import onnx_files
from hearth_backends.weights.encoder_folder import digest_of
from hearth_backends.weights.json_file import read_table
from hearth_backends.weights.onnx_file import OnnxFile, Port, read_onnx
from hearth_backends.weights.spec import ModelSpec, RopeSpec, TensorInfo

GENAI_CONFIG = "genai_config.json"
CACHE = "past_key_values"
"""Name of what stands for keys and values among a model's tensors: [layers, 2, kv_heads, head_dim]."""
APART = "present"
"""Likewise, where a graph gives keys and values back apart from those it was given."""
_USUAL_NAMES = ("model.onnx", "decoder_model_merged.onnx")
_OF_SEVERAL = ("encoder_model", "decoder_model", "decoder_with_past_model")
"""Files that are parts of a model."""


def is_decoder_folder(folder: Path) -> bool:
    """Whether a folder holds graphs and nothing to build one from; one of a decoder, unless it is an encoder's."""
    if any(folder.glob("*.safetensors")):
        return False
    return (folder / GENAI_CONFIG).exists() or any(onnx_files(folder))


def open_decoder(path: str) -> LoadedModel:
    """Read the graph's signature, what lies beside it, and the tokenizer; raises ModelFileError, Unsupported."""
    given = Path(path)
    folder = given if given.is_dir() else _folder_of(given)
    try:
        config = _read_config(folder)
        weights = given if not given.is_dir() else _weights(folder, config)
        file = read_onnx(weights)
        spec = _describe(folder, file, config)
    except (ModelFileError, Unsupported) as error:
        if str(folder) in str(error):
            raise
        raise type(error)(f"{folder}: {error}") from error
    tokenizer = CheckpointTokenizer(
        folder / "tokenizer.json",
        n_vocab=spec.n_vocab,
        bos_id=spec.bos_id,
        eos_id=spec.eos_id,
        end_ids=spec.end_ids,
    )
    told = with_tokens(
        spec,
        chat_template=chat_template_of(folder),
        add_bos=tokenizer.adds_bos,
        end_ids=tokenizer.end_ids,
    )
    return LoadedModel(told, tokenizer)


def read_decoder(model: ModelSpec) -> tuple[OnnxFile, DecoderConfig]:
    """The graph of a model that `open_decoder` described; raises ModelFileError, also where it has changed."""
    if model.path is None:
        raise ModelFileError(f"{model.name} has no file")
    file, folder = read_onnx(model.path), _folder_of(model.path)
    if digest_of(folder, [file.path, *file.data_files]) != model.digest:
        raise ModelFileError(f"{model.path}: the file has changed since it was described")
    return file, _read_config(folder)


def keeps_rows(file: OnnxFile, names: DecoderNames) -> bool:
    """Whether keys of new tokens go to their own places in what came in (GroupQueryAttention does so).

    All other graphs put them after it, filling included. Raises Unsupported where a window forgets some.
    """
    pasts = [
        numbered(template, layer)
        for layer in names.layers(file.inputs)
        for template in (names.past_keys, names.past_values)
    ]
    readers = {reader for name in pasts for reader in file.readers.get(name, ())}
    if any("sliding_window_cache" in reader.switches for reader in readers):
        raise Unsupported(
            f"{file.path}: its keys and values slide along with a window, which slots do not"
        )
    return {reader.operator for reader in readers} == {"GroupQueryAttention"}


def _folder_of(file: Path) -> Path:
    """Where the configuration is: beside the file, or above its "onnx" folder."""
    for folder in (file.parent, file.parent.parent):
        if (folder / GENAI_CONFIG).exists() or (folder / "config.json").exists():
            return folder
    raise ModelFileError(
        f"{file}: there is no {GENAI_CONFIG} or config.json beside it, nor in the folder above"
    )


def _read_config(folder: Path) -> DecoderConfig:
    if (folder / GENAI_CONFIG).exists():
        return from_genai(read_table(folder / GENAI_CONFIG))
    return from_transformers(read_table(folder / "config.json"))


def _weights(folder: Path, config: DecoderConfig) -> Path:
    """The graph to load; raises ModelFileError where there is none, or nobody says which."""
    if config.file is not None:
        if Path(config.file).name != config.file:
            raise ModelFileError(f"{GENAI_CONFIG}: it names a file outside of its folder")
        return folder / config.file
    found = onnx_files(folder)
    for name in _USUAL_NAMES:
        for file in found:
            if file.name == name:
                return file
    if any(file.stem.startswith(_OF_SEVERAL) for file in found):
        names = ", ".join(str(file.relative_to(folder)) for file in found)
        raise Unsupported(
            f"{folder}: a model in several graphs ({names}); Hearth runs one that does all: "
            "decoder_model_merged.onnx or model.onnx"
        )
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(file.relative_to(folder)) for file in found) or "there are none"
    raise ModelFileError(
        f"{folder}: none of its ONNX files is called model.onnx; name one: {names}"
    )


def _describe(folder: Path, file: OnnxFile, config: DecoderConfig) -> ModelSpec:
    """Sizes are the graph's where it states them."""
    layers = config.names.layers(file.inputs)
    cache = file.inputs.get(numbered(config.names.past_keys, layers[0])) if layers else None
    n_kv_heads = _stated(cache, 1, config.n_kv_heads)
    head_dim = _stated(cache, 3, config.head_dim)
    n_vocab = _stated(file.outputs.get(config.names.logits), 2, config.n_vocab)
    kind = "F32" if cache is None else _KINDS.get(cache.dtype.name, cache.dtype.name)
    shape = (len(layers) or config.n_layers, 2, n_kv_heads, head_dim)
    tensors = [
        TensorInfo("graph", file.path.name, (file.n_parameters,), file.quantization, file.n_bytes, None),
        TensorInfo(CACHE, config.names.past_keys, shape, kind, 0, None),
    ]  # fmt: skip
    if not keeps_rows(file, config.names):
        tensors.append(TensorInfo(APART, config.names.present_keys, shape, kind, 0, None))
    ends = config.eos_ids | _generation_ends(folder)
    return ModelSpec(
        path=file.path,
        format="onnx",
        digest=digest_of(folder, [file.path, *file.data_files]),
        name=folder.name,
        architecture=config.architecture,
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        d_ff=config.d_ff or 4 * config.d_model,
        n_vocab=n_vocab,
        context_trained=config.context,
        norm_eps=1e-6,
        rope=RopeSpec(10_000.0, head_dim),
        tied_embeddings=True,
        quantization=file.quantization,
        file_bytes=file.n_bytes,
        n_parameters=file.n_parameters,
        chat_template=None,
        bos_id=config.bos_id,
        eos_id=min(config.eos_ids, default=None),
        end_ids=ends,
        add_bos=False,
        tensors={tensor.name: tensor for tensor in tensors},
    )


_KINDS = {"float32": "F32", "float16": "F16", "int8": "INT8"}


def _stated(port: Port | None, axis: int, otherwise: int) -> int:
    if port is None or len(port.shape) <= axis:
        return otherwise
    return port.shape[axis] or otherwise


def _generation_ends(folder: Path) -> frozenset[int]:
    path = folder / "generation_config.json"
    return Config(read_table(path)).ids("eos_token_id") if path.exists() else frozenset()
