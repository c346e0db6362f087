"""Names to backends, and model paths to readers; each is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import cast

from hearth_backends.base import Backend, LoadedModel
from hearth_backends.errors import ModelFileError, Unsupported

BACKENDS = {
    "cuda": "hearth_backends.cuda.backend:CudaBackend",
    "gguf": "hearth_backends.gguf.backend:GgufBackend",
    "onnx": "hearth_backends.onnx.backend:OnnxBackend",
    "sim": "hearth_backends.sim.backend:SimBackend",
}
"""Backend name to "module:class"."""


def backend(name: str) -> Backend:
    """The backend of that name; raises Unsupported for a name that nobody has, or a missing package."""
    if name not in BACKENDS:
        raise Unsupported(f"no backend is called {name!r}; there are {', '.join(sorted(BACKENDS))}")
    module, _, attribute = BACKENDS[name].partition(":")
    return cast(Backend, getattr(_module_of(name, module), attribute)())


def _module_of(name: str, module: str) -> ModuleType:
    """A module of a backend; raises Unsupported where a package it needs is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        if (error.name or "").startswith("hearth_backends"):
            raise  # our own mistake, not a package that somebody could install
        raise Unsupported(
            f"backend {name} needs a package that is not here ({error.name}): pip install 'hearthd[{name}]'"
        ) from error


def open_model(path: str) -> LoadedModel:
    """Read a model's specification and load its tokenizer; raises ModelFileError, Unsupported.

    `path` is a GGUF file, the folder of a checkpoint or of a model in ONNX, an ONNX file in such a folder,
    "builtin:canary" for the model of the package, or "sim:" with options for the simulated model.
    """
    if path.startswith("builtin:"):
        path = _builtin(path.removeprefix("builtin:"))
    if path.startswith("sim:"):
        return cast(LoadedModel, import_module("hearth_backends.sim.model").open_sim(path))
    if path.endswith(".gguf"):
        return cast(LoadedModel, _module_of("gguf", "hearth_backends.gguf.vocab").open_gguf(path))
    if _is_encoder(path):
        module = _module_of("onnx", "hearth_backends.weights.encoder_folder")
        return cast(LoadedModel, module.open_encoder(path))
    if path.endswith(".onnx") or _is_decoder(path):
        module = _module_of("onnx", "hearth_backends.weights.decoder_folder")
        return cast(LoadedModel, module.open_decoder(path))
    if Path(path, "config.json").exists():
        module = _module_of("onnx", "hearth_backends.weights.checkpoint_tokenizer")
        return cast(LoadedModel, module.open_checkpoint(path))
    raise ModelFileError(
        f"{path}: not a model that Hearth can read (a .gguf file is, and a folder with config.json "
        "and safetensors, or with an ONNX file and genai_config.json or config.json)"
    )


def _is_encoder(path: str) -> bool:
    """Of a folder, or of an ONNX file in it or in its "onnx" folder."""
    given = Path(path)
    places = [given.parent, given.parent.parent] if path.endswith(".onnx") else [given]
    folders = [folder for folder in places if (folder / "config.json").exists()]
    module = import_module("hearth_backends.weights.encoder_config")
    return bool(folders) and bool(module.is_encoder_folder(folders[0]))


def _is_decoder(path: str) -> bool:
    """Whether a folder holds a decoder in ONNX."""
    folder = Path(path)
    if not any((folder / name).exists() for name in ("genai_config.json", "config.json")):
        return False
    module = import_module("hearth_backends.weights.decoder_folder")
    return bool(module.is_decoder_folder(folder))


def _builtin(name: str) -> str:
    """The file of a model that comes with the package."""
    if name != "canary":
        raise ModelFileError(f"no model called {name!r} comes with Hearth; canary does")
    return str(import_module("hearth_backends.canary").PATH)


def candidates(model: LoadedModel, device: str = "cpu:0") -> list[str]:
    """Names of the backends that read this model's format, best first for that device.

    On a processor the one that pages is a reference; on a GPU it is what there is.
    """
    names = {
        "gguf": ["gguf", "onnx", "cuda"],
        "safetensors": ["onnx", "cuda"],
        "onnx": ["onnx"],
        "sim": ["sim"],
    }.get(model.spec.format, [])
    if device.startswith("cpu") or "cuda" not in names:
        return names
    return ["cuda", *(name for name in names if name != "cuda")]
