"""The vocabulary of tiny models: 256 bytes, one merge, and two control tokens."""

from __future__ import annotations

import gguf

N_VOCAB = 259


def byte_tokens() -> list[str]:
    """The 256 bytes in GPT-2's printable spelling, in byte order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def write_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Put it into a file."""
    tokens = [*byte_tokens(), "ab", "<bos>", "<eos>"]
    kinds = [gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
