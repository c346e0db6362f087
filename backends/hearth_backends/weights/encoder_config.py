"""From the files of an encoder's folder to its dimensions, and how it pools; decides nothing of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hearth_backends.errors import ModelFileError
from hearth_backends.weights.checkpoint_config import Config
from hearth_backends.weights.encoding import EncodingSpec, Pooling
from hearth_backends.weights.json_file import read_list, read_table

ENCODER_TYPES = frozenset({
    "albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "gte", "mpnet",
    "modernbert", "new", "nomic_bert", "roberta", "xlm-roberta",
})  # fmt: skip
"""`model_type` of models that continue no text."""
_PADDED_POSITIONS = frozenset({"camembert", "mpnet", "roberta", "xlm-roberta"})
"""Types whose first position comes after the number of the padding token."""
_MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_NAMED_MODES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_PLAIN_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """What the files beside the weights say."""

    architecture: str
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_vocab: int
    context: int  # tokens of a text at most
    first_position: int  # number of the first token's position
    n_types: int  # of token types; 1: they are not told apart
    pad_id: int
    norm_eps: float
    activation: str
    encoding: EncodingSpec
    later_modules: tuple[str, ...]  # what sentence-transformers computes besides pooling and norm


def is_encoder_folder(folder: Path) -> bool:
    """Whether a folder holds a model that turns texts into vectors or scores."""
    values = read_table(folder / "config.json")
    return values.get("model_type") in ENCODER_TYPES or (
        (folder / "modules.json").exists() and any(onnx_files(folder))
    )


def onnx_files(folder: Path) -> list[Path]:
    """ONNX files of a folder and of its "onnx" folder, in order."""
    return [*sorted(folder.glob("onnx/*.onnx")), *sorted(folder.glob("*.onnx"))]


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Read config.json and what sentence-transformers adds; raises ModelFileError."""
    values = read_table(folder / "config.json")
    config = Config(values)
    architecture = config.get("model_type", str) or "unknown"
    pad_id = config.get("pad_token_id", int) or 0
    first = pad_id + 1 if architecture in _PADDED_POSITIONS else 0
    d_model = _size(config, "hidden_size", "dim", "n_embd", "d_model")
    pooling, later = _modules(folder)
    return EncoderConfig(
        architecture=architecture,
        d_model=d_model,
        n_layers=_size(config, "num_hidden_layers", "n_layers", "n_layer"),
        n_heads=_size(config, "num_attention_heads", "n_heads", "n_head"),
        d_ff=_size(config, "intermediate_size", "hidden_dim", "n_inner", default=4 * d_model),
        n_vocab=config.size("vocab_size"),
        context=_size(config, "max_position_embeddings", "n_positions") - first,
        first_position=first,
        n_types=config.size("type_vocab_size", 1),
        pad_id=pad_id,
        norm_eps=config.get("layer_norm_eps", float) or 1e-12,
        activation=config.get("hidden_act", str) or config.get("activation", str) or "gelu",
        encoding=_encoding(config, pooling),
        later_modules=later,
    )


def _size(config: Config, *keys: str, default: int | None = None) -> int:
    """The first of the keys that is there; raises ModelFileError, naming the usual one."""
    for key in keys:
        if config.get(key, int) is not None:
            return config.size(key)
    return config.size(keys[0], default)


def _encoding(config: Config, pooling: Pooling | None) -> EncodingSpec:
    classifies = any(
        name.endswith("ForSequenceClassification") for name in config.names("architectures")
    )
    if not classifies:
        return EncodingSpec(pooling, generates=False)
    labels = config.table("id2label") or {
        str(i): f"LABEL_{i}" for i in range(config.size("num_labels", 2))
    }
    return EncodingSpec(
        "rank", generates=False, ranks=True, labels=tuple(map(str, labels.values()))
    )


def _modules(folder: Path) -> tuple[Pooling | None, tuple[str, ...]]:
    """How modules.json pools, and what it has after that; None where it does not say."""
    path = folder / "modules.json"
    if not path.exists():
        return None, ()
    pooling: Pooling | None = None
    later = []
    for module in read_list(path):
        if not isinstance(module, dict):
            raise ModelFileError(f"{path}: a module is no table: {module!r:.60}")
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(folder / str(module.get("path", "")) / "config.json")
        elif kind not in _PLAIN_MODULES:
            later.append(kind)
    return pooling, tuple(later)


def _pooling(path: Path) -> Pooling | None:
    values = read_table(path)
    named = values.get("pooling_mode")
    if isinstance(named, str):
        chosen = [named]
        known = _NAMED_MODES
    else:
        chosen = [
            key
            for key, value in values.items()
            if key.startswith("pooling_mode_") and value is True
        ]
        known = _MODES
    if len(chosen) != 1 or chosen[0] not in known:
        raise ModelFileError(
            f"{path}: it pools by {' and '.join(chosen) or 'nothing'}, which is not known here"
        )
    return known[chosen[0]]
