"""The tokenizer of a GGUF model: exact bytes both ways, control tokens, threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hearth_backends.base import LoadedModel
from hearth_backends.errors import ModelFileError

pytest.importorskip("llama_cpp")

from hearth_backends.gguf.vocab import open_gguf
from hearth_backends.registry import open_model

MakeGguf = Callable[..., Path]


@pytest.fixture(scope="module")
def sentencepiece(stories: Path) -> LoadedModel:
    return open_gguf(str(stories))


@pytest.fixture(scope="module")
def bytelevel(make_gguf: MakeGguf) -> LoadedModel:
    return open_gguf(str(make_gguf()))


def test_the_registry_opens_gguf_files(stories: Path) -> None:
    assert open_model(str(stories)).spec.architecture == "llama"


def test_sentencepiece_facts(sentencepiece: LoadedModel) -> None:
    tokenizer = sentencepiece.tokenizer
    assert (tokenizer.n_vocab, tokenizer.bos_id, tokenizer.eos_id) == (512, 1, 2)
    assert tokenizer.end_ids == frozenset({2})
    assert sentencepiece.spec.add_bos


def test_sentencepiece_text(sentencepiece: LoadedModel) -> None:
    tokenizer = sentencepiece.tokenizer
    tokens = tokenizer.encode("Once upon a time", add_special=True, parse_special=False)
    assert tokens == [1, 403, 407, 261, 378]
    assert tokenizer.decode(tokens) == b"Once upon a time"
    assert tokenizer.decode(tokens, special=True) == b"<s>Once upon a time"
    assert b"".join(map(tokenizer.piece, tokens)) == b" Once upon a time"


def test_bytelevel_facts(bytelevel: LoadedModel) -> None:
    tokenizer = bytelevel.tokenizer
    assert (tokenizer.n_vocab, tokenizer.bos_id, tokenizer.eos_id) == (259, 257, 258)
    assert 258 in tokenizer.end_ids
    assert not bytelevel.spec.add_bos
    assert bytelevel.spec.end_ids == tokenizer.end_ids


def test_every_byte_has_a_token_and_back(bytelevel: LoadedModel) -> None:
    tokenizer = bytelevel.tokenizer
    assert [tokenizer.piece(token) for token in range(256)] == [bytes([b]) for b in range(256)]
    assert tokenizer.piece(256) == b"ab"


def test_control_tokens_are_silent_unless_asked(bytelevel: LoadedModel) -> None:
    tokenizer = bytelevel.tokenizer
    text = "a<eos>b"
    plain = tokenizer.encode(text, add_special=False, parse_special=False)
    parsed = tokenizer.encode(text, add_special=False, parse_special=True)
    assert parsed == [ord("a"), 258, ord("b")]
    assert 258 not in plain
    assert tokenizer.decode(plain) == text.encode()
    assert tokenizer.decode(parsed) == b"ab"
    assert tokenizer.decode(parsed, special=True) == text.encode()
    assert tokenizer.piece(258) == b""
    assert tokenizer.piece(258, special=True) == b"<eos>"


@pytest.mark.parametrize("token", [-1, 259, 10**9])
def test_a_number_that_is_no_token(bytelevel: LoadedModel, token: int) -> None:
    with pytest.raises(ValueError, match="not one of 259"):
        bytelevel.tokenizer.piece(token)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(max_size=60))
def test_any_text_survives(bytelevel: LoadedModel, sentencepiece: LoadedModel, text: str) -> None:
    for model in (bytelevel, sentencepiece):
        tokens = model.tokenizer.encode(text, add_special=True, parse_special=False)
        assert model.tokenizer.decode(tokens) == text.encode("utf-8", "replace")


def test_a_long_text_is_not_cut(bytelevel: LoadedModel) -> None:
    text = "xyz " * 50_000
    tokens = bytelevel.tokenizer.encode(text, add_special=False, parse_special=False)
    assert len(tokens) == len(text)


def test_a_nul_and_a_lone_surrogate_are_text(bytelevel: LoadedModel) -> None:
    tokenizer = bytelevel.tokenizer
    tokens = tokenizer.encode("a\0b\ud800", add_special=False, parse_special=False)
    assert tokenizer.decode(tokens) == b"a\0b?"


def test_threads_share_a_tokenizer(make_gguf: MakeGguf) -> None:
    tokenizer = open_gguf(str(make_gguf())).tokenizer
    texts = [f"request {i}: " + "ab" * i for i in range(40)]

    def there_and_back(text: str) -> str:
        tokens = tokenizer.encode(text, add_special=False, parse_special=False)
        return b"".join(map(tokenizer.piece, tokens)).decode()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(there_and_back, texts)) == texts


def test_a_file_that_llama_cpp_refuses_says_why(make_gguf: MakeGguf, tmp_path: Path) -> None:
    path = tmp_path / "strange.gguf"
    path.write_bytes(make_gguf().read_bytes().replace(b"gpt2", b"gpt9"))
    with pytest.raises(ModelFileError, match=r"strange\.gguf: .*gpt9"):
        open_gguf(str(path))
