"""Tiny tokenizer.json files, of the two kinds that models have."""

from __future__ import annotations

from pathlib import Path

import pytest


def byte_level(path: Path, n_vocab: int = 290) -> None:
    """A byte-level vocabulary with merges, as Llama 3 and Qwen have."""
    tokenizers = pytest.importorskip("tokenizers")
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=n_vocab, initial_alphabet=alphabet, special_tokens=["<|end|>", "<|begin|>"]
    )
    library.train_from_iterator(["hello there hello there, naïve hello"] * 9, trainer)
    library.save(str(path))


def sentence_piece(path: Path) -> None:
    """Bytes to fall back on and marks for spaces, as Llama 2 and Mistral have."""
    tokenizers = pytest.importorskip("tokenizers")
    vocab = {"<unk>": 0, "<|begin|>": 1, "<|end|>": 2}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    for word in ("▁", "h", "e", "l", "o", "▁h", "he", "ll", "llo", "▁he"):
        vocab[word] = len(vocab)
    merges = [("▁", "h"), ("h", "e"), ("l", "l"), ("ll", "o"), ("▁h", "e")]
    library = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    library.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    library.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
    )
    library.add_special_tokens(["<unk>", "<|begin|>", "<|end|>"])
    library.save(str(path))
