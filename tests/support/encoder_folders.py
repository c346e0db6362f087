"""Folders of tiny encoders in Hugging Face's layout: a TinyBert as safetensors, or as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tiny_bert import CLS, MASK, PAD, SEP, UNK, VOCABULARY, TinyBert
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_OUTER = {
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "cls": "pooler.dense",
    "cls.output": "classifier",
}
_INNER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


def write_checkpoint(bert: TinyBert, folder: Path) -> Path:
    """With safetensors; of a reranker the encoder's tensors are called "bert."."""
    write_beside(bert, folder)
    save_file(
        {_name(bert, name): v for name, v in bert.tensors().items()}, folder / "model.safetensors"
    )
    return folder


def write_beside(bert: TinyBert, folder: Path) -> None:
    """All but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "BertForSequenceClassification" if bert.n_labels else "BertModel"
    labels = list(bert.labels) or ["LABEL_0"]
    config = {
        "model_type": "bert",
        "architectures": [kind],
        "hidden_size": bert.d_model,
        "num_hidden_layers": bert.n_layers,
        "num_attention_heads": bert.n_heads,
        "intermediate_size": bert.d_ff,
        "max_position_embeddings": bert.context,
        "type_vocab_size": 2,
        "vocab_size": len(VOCABULARY),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": PAD,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    _write(folder / "config.json", config)
    if bert.pooling in ("mean", "cls"):
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [
            {"path": path, "type": f"sentence_transformers.models.{kind}"}
            for path, kind in kinds.items()
        ]
        _write(folder / "modules.json", modules)
        _write(
            folder / "1_Pooling" / "config.json",
            {
                "pooling_mode_cls_token": bert.pooling == "cls",
                "pooling_mode_mean_tokens": bert.pooling == "mean",
            },
        )
    _tokenizer().save(str(folder / "tokenizer.json"))


def _tokenizer() -> Tokenizer:
    """WordPiece, with texts cut and filled up, as such files have it."""
    special = {"[PAD]": PAD, "[UNK]": UNK, "[CLS]": CLS, "[SEP]": SEP, "[MASK]": MASK}
    words = {_spelled(word): i for i, word in enumerate(VOCABULARY)}
    library = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.add_special_tokens(list(special))
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    library.enable_truncation(12)
    library.enable_padding(length=12)
    return library


def _spelled(word: str) -> str:
    if word.startswith("["):
        return word
    return word[1:] if word.startswith("\u2581") else f"##{word}"


def _name(bert: TinyBert, stored: str) -> str:
    stem, _, part = stored.rpartition(".")
    prefix = "bert." if bert.n_labels else ""
    if stem == "cls.output":
        return f"classifier.{part}"
    if stem in _OUTER:
        return f"{prefix}{_OUTER[stem]}.{part}"
    _, layer, inner = stem.split(".")
    return f"{prefix}encoder.layer.{layer}.{_INNER[inner]}.{part}"


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(values))


# --- as an ONNX file, of the standard's operators only ------------------------------------------


def write_onnx(
    bert: TinyBert, folder: Path, *, extra_input: str | None = None, external: bool = False
) -> Path:
    """A folder with onnx/model.onnx, which takes what exporters have it take."""
    write_beside(bert, folder)
    (folder / "onnx").mkdir(exist_ok=True)
    model = _Exporter(bert).model(extra_input)
    options: dict[str, Any] = {}
    if external:
        options = {
            "save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 1024,
        }  # fmt: skip
    onnx.save_model(model, str(folder / "onnx" / "model.onnx"), **options)
    return folder


class _Exporter:
    def __init__(self, bert: TinyBert) -> None:
        self._bert = bert
        self._nodes: list[onnx.NodeProto] = []
        self._held = [numpy_helper.from_array(v, name) for name, v in bert.tensors().items()]

    def model(self, extra_input: str | None) -> onnx.ModelProto:
        bert, run = self._bert, self._run
        n = run("Shape", "input_ids")
        positions = run("Range", self._long(0), run("Gather", n, self._long(1)), self._long(1))
        x = run("Add", run("Gather", "token_embd.weight", "input_ids"),
                run("Gather", "token_types.weight", "token_type_ids"))  # fmt: skip
        x = self._norm(
            "token_embd_norm", run("Add", x, run("Gather", "position_embd.weight", positions))
        )
        hidden = run("Sub", self._float(1), run("Cast", "attention_mask", to=TensorProto.FLOAT))
        mask = run("Unsqueeze", run("Mul", hidden, self._float(-1e9)), self._long([1, 2]))
        for layer in range(bert.n_layers):
            x = self._layer(f"blk.{layer}.", x, mask)
        output = "last_hidden_state"
        shape: list[str | int | None] = ["n", "m", bert.d_model]
        if bert.n_labels:
            first = run("Tanh", self._linear("cls", run("Gather", x, self._long(0), axis=1)))
            x, output, shape = self._linear("cls.output", first), "logits", ["n", bert.n_labels]
        self._nodes.append(helper.make_node("Identity", [x], [output]))
        names = ["input_ids", "attention_mask", "token_type_ids"]
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "m"])
            for name in [*names, *([extra_input] if extra_input else [])]
        ]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)]
        graph = helper.make_graph(self._nodes, "bert", inputs, outputs, self._held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    def _layer(self, layer: str, x: str, mask: str) -> str:
        bert, run = self._bert, self._run
        shape = self._long([0, 0, bert.n_heads, bert.d_model // bert.n_heads])
        q, k, v = (
            run(
                "Transpose",
                run("Reshape", self._linear(f"{layer}attn_{part}", x), shape),
                perm=perm,
            )
            for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
        )
        scale = self._float((bert.d_model // bert.n_heads) ** -0.5)
        scores = run("Add", run("Mul", run("MatMul", q, k), scale), mask)
        mixed = run(
            "Transpose", run("MatMul", run("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3]
        )
        mixed = run("Reshape", mixed, self._long([0, 0, bert.d_model]))
        x = self._norm(
            f"{layer}attn_output_norm", run("Add", x, self._linear(f"{layer}attn_output", mixed))
        )
        inner = run("Gelu", self._linear(f"{layer}ffn_up", x))
        down = self._linear(f"{layer}ffn_down", inner)
        return self._norm(f"{layer}layer_output_norm", run("Add", x, down))

    def _linear(self, name: str, x: str) -> str:
        product = self._run("MatMul", x, self._run("Transpose", f"{name}.weight", perm=[1, 0]))
        return self._run("Add", product, f"{name}.bias")

    def _norm(self, name: str, x: str) -> str:
        return self._run(
            "LayerNormalization", x, f"{name}.weight", f"{name}.bias", axis=-1, epsilon=1e-12
        )

    def _run(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def _long(self, value: Any) -> str:
        return self._constant(np.asarray(value, np.int64))

    def _float(self, value: float) -> str:
        return self._constant(np.asarray(value, np.float32))

    def _constant(self, array: NDArray[Any]) -> str:
        name = f"constant_{len(self._held)}"
        self._held.append(numpy_helper.from_array(array, name))
        return name
