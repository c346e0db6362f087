"""An embedding model on ONNX Runtime through `hearthd`: texts in, vectors of length 1 out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hearthd_process import running
from openai import OpenAI
from tiny_bert import TinyBert

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("tokenizers", reason="tokenizers is not installed")

from encoder_folders import write_onnx

from hearth_backends import registry

TEXTS = ["the cat sat on the mat", "a dog ran home"]


@pytest.mark.slow
def test_an_onnx_file_embeds() -> None:
    bert = TinyBert(rounds=False)
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        path, config = write_onnx(bert, Path(folder) / "model"), Path(folder) / "hearthd.toml"
        config.write_text(f'[models.tiny]\npath = "{path}"\n')
        tokenizer = registry.open_model(str(path)).tokenizer
        with running(Path(folder), "--config", str(config)) as daemon:
            daemon.until_ready()
            with OpenAI(base_url=f"http://{daemon.address()}/v1", api_key="none") as client:
                answer = client.embeddings.create(model="tiny", input=TEXTS)
                short = client.embeddings.create(model="tiny", input=TEXTS[0], dimensions=8)
    token_lists = [tokenizer.encode(t, add_special=True, parse_special=False) for t in TEXTS]
    expected = [bert.vector(tokens) for tokens in token_lists]
    np.testing.assert_allclose([row.embedding for row in answer.data], expected, atol=5e-6)
    assert answer.usage.prompt_tokens == sum(map(len, token_lists))
    first = expected[0][:8] / np.linalg.norm(expected[0][:8])
    np.testing.assert_allclose(short.data[0].embedding, first, atol=5e-6)
