"""A checkpoint in Hugging Face's layout through `hearthd`: its tokenizer, its template, its weights in 8 bits."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hearthd_process import running
from openai import OpenAI

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("tokenizers", reason="tokenizers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from tiny_checkpoints import N_VOCAB, make_checkpoint
from tiny_tokenizers import byte_level

TEMPLATE = "{% for message in messages %}<|begin|>{{ message.content }}{% endfor %}"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of transformers and torch
def test_a_checkpoint_answers() -> None:
    with tempfile.TemporaryDirectory(prefix="hearth") as folder:
        model, config = Path(folder) / "model", Path(folder) / "hearthd.toml"
        make_checkpoint(model, "qwen2")
        byte_level(model / "tokenizer.json", n_vocab=N_VOCAB)
        (model / "chat_template.jinja").write_text(TEMPLATE)
        config.write_text(f'[models.tiny]\npath = "{model}"\nweights = "int8"\ncontext = 128\n')
        with running(Path(folder), "--config", str(config)) as daemon:
            daemon.until_ready()
            with OpenAI(base_url=f"http://{daemon.address()}/v1", api_key="none") as client:
                answer = client.chat.completions.create(
                    model="tiny",
                    messages=[{"role": "user", "content": "hello there"}],
                    temperature=0,
                    max_tokens=5,
                    extra_body={"ignore_eos": True},
                )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens > 1
