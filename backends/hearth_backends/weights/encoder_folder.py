"""An encoder in Hugging Face's layout: config.json, tokenizer.json, and safetensors or an ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hearth_backends.base import LoadedModel
from hearth_backends.errors import ModelFileError, Unsupported
from hearth_backends.weights.encoder_config import EncoderConfig, onnx_files, read_encoder_config
from hearth_backends.weights.encoder_tokenizer import EncoderTokenizer
from hearth_backends.weights.onnx_file import read_onnx
from hearth_backends.weights.safetensors_file import SafetensorsFile
from hearth_backends.weights.spec import ModelSpec, RopeSpec, TensorInfo

BUILT_TYPES = frozenset({"bert", "camembert", "roberta", "xlm-roberta"})
"""Types whose graph is built here from safetensors."""
SAFETENSORS = "model.safetensors"
_SAMPLE_BYTES = 16 << 10
_SAMPLE_STEP = 1 << 20
_BESIDE = ("config.json", "modules.json", "1_Pooling/config.json")

F32 = NDArray[np.float32]


def open_encoder(path: str) -> LoadedModel:
    """Read a folder's, or a single ONNX file's, specification and tokenizer.

    Raises ModelFileError, Unsupported.
    """
    given = Path(path)
    folder = given if given.is_dir() else _folder_of(given)
    config = read_encoder_config(folder)
    weights = given if not given.is_dir() else _weights(folder, config)
    read = _from_safetensors if weights.suffix == ".safetensors" else _from_onnx
    spec = read(folder, weights, config)
    return LoadedModel(spec, EncoderTokenizer(folder / "tokenizer.json", n_vocab=spec.n_vocab))


def config_of(model: ModelSpec) -> EncoderConfig:
    """The configuration of a model that `open_encoder` described; raises ModelFileError."""
    if model.path is None:
        raise ModelFileError(f"{model.name} has no file")
    return read_encoder_config(_folder_of(model.path))


def tensors_of(model: ModelSpec) -> SafetensorsFile:
    """Its safetensors; raises ModelFileError, also where the files have changed since."""
    if model.path is None:
        raise ModelFileError(f"{model.name} has no file")
    check_digest(model, [model.path])
    return SafetensorsFile(model.path)


def check_digest(model: ModelSpec, files: Sequence[Path]) -> None:
    """Raise ModelFileError unless the files are those that were described; the first is the model's."""
    if digest_of(_folder_of(files[0]), files) != model.digest:
        raise ModelFileError(f"{files[0]}: the file has changed since it was described")


def _folder_of(file: Path) -> Path:
    """Where config.json is: beside the file, or above its "onnx" folder."""
    for folder in (file.parent, file.parent.parent):
        if (folder / "config.json").exists():
            return folder
    raise ModelFileError(f"{file}: there is no config.json beside it, nor in the folder above")


def _weights(folder: Path, config: EncoderConfig) -> Path:
    """The file to load: safetensors where a graph is built from them, else the ONNX file."""
    safetensors = folder / SAFETENSORS
    if config.architecture in BUILT_TYPES and not config.later_modules and safetensors.exists():
        return safetensors
    found = onnx_files(folder)
    named = [file for file in found if file.name == "model.onnx"]
    if named or len(found) == 1:
        return (named or found)[0]
    if found:
        names = ", ".join(str(file.relative_to(folder)) for file in found)
        raise ModelFileError(
            f"{folder}: none of its ONNX files is called model.onnx; name one: {names}"
        )
    if safetensors.exists():
        raise Unsupported(
            f"{folder}: encoders of the type {config.architecture} are not built from safetensors; "
            f"{', '.join(sorted(BUILT_TYPES))} are, and others run from an ONNX file (onnx/model.onnx)"
        )
    raise ModelFileError(f"{folder}: there is neither {SAFETENSORS} nor onnx/model.onnx")


def _from_onnx(folder: Path, path: Path, config: EncoderConfig) -> ModelSpec:
    file = read_onnx(path)
    graph = TensorInfo(
        "graph", path.name, (file.n_parameters,), file.quantization, file.n_bytes, None
    )
    context = config.context
    fixed = file.inputs["input_ids"].shape[-1:] if "input_ids" in file.inputs else ()
    if fixed and fixed[0] is not None:
        context = min(context, fixed[0])
    digest = digest_of(folder, [path, *file.data_files])
    return _spec(folder, path, config, "onnx", context, digest, [graph], file.n_parameters)


def _from_safetensors(folder: Path, path: Path, config: EncoderConfig) -> ModelSpec:
    listed = SafetensorsFile(path).tensors.values()
    infos = [TensorInfo(t.name, t.name, t.shape, t.dtype, t.end - t.begin, None) for t in listed]
    n_parameters = sum(int(np.prod(info.shape, dtype=np.int64)) for info in infos)
    digest = digest_of(folder, [path])
    return _spec(folder, path, config, "safetensors", config.context, digest, infos, n_parameters)


def _spec(
    folder: Path,
    path: Path,
    config: EncoderConfig,
    kind: str,
    context: int,
    digest: str,
    tensors: list[TensorInfo],
    n_parameters: int,
) -> ModelSpec:
    head_dim = config.d_model // config.n_heads
    return ModelSpec(
        path=path,
        format=kind,
        digest=digest,
        name=folder.name,
        architecture=config.architecture,
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_kv_heads=config.n_heads,
        head_dim=head_dim,
        d_ff=config.d_ff,
        n_vocab=config.n_vocab,
        context_trained=context,
        norm_eps=config.norm_eps,
        rope=RopeSpec(10_000.0, head_dim),
        tied_embeddings=True,
        quantization=max(tensors, key=lambda t: t.n_bytes).dtype,
        file_bytes=sum(t.n_bytes for t in tensors),
        n_parameters=n_parameters,
        chat_template=None,
        bos_id=None,
        eos_id=None,
        end_ids=frozenset(),
        add_bos=False,
        tensors={tensor.name: tensor for tensor in tensors},
        encoding=config.encoding,
    )


def digest_of(folder: Path, files: Iterable[Path]) -> str:
    """A name for these weights: SHA-256 over what describes them, sizes, and samples of every MiB."""
    digest = hashlib.sha256()
    for name in _BESIDE:
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"-")
    for file in files:
        try:
            data = np.memmap(file, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{file}: it cannot be read: {error}") from error
        digest.update(f" {file.name} {data.size} ".encode())
        for begin in range(0, data.size, _SAMPLE_STEP):
            digest.update(data[begin : begin + _SAMPLE_BYTES].data)
        digest.update(data[-_SAMPLE_BYTES:].data)
    return digest.hexdigest()
