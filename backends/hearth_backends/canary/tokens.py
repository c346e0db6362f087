"""The canary's vocabulary: each byte is its own token, and three specials mark the turns."""

from __future__ import annotations

from collections.abc import Sequence

from hearth_backends.canary.tasks import Message

END_OF_TEXT, IM_START, IM_END = 256, 257, 258
SPECIALS = {END_OF_TEXT: "<|endoftext|>", IM_START: "<|im_start|>", IM_END: "<|im_end|>"}
SIZE = 259
DUMMY_MERGE = "Ā ā"
"""Loaders ask for a list of merges; this one's result is no token, so that it never applies."""

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def token_texts() -> list[str]:
    """The text of each token in GPT-2's notation, where every byte has a visible letter."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = iter(range(0x100, 0x200))
    texts = [chr(byte if byte in visible else next(hidden)) for byte in range(256)]
    return texts + [SPECIALS[number] for number in sorted(SPECIALS)]


def opening(role: str) -> list[int]:
    return [IM_START, *role.encode(), 10]


def turn(message: Message) -> list[int]:
    return [*opening(message["role"]), *message["content"].encode(), IM_END, 10]


def prompt(messages: Sequence[Message]) -> list[int]:
    """The tokens that TEMPLATE renders, with the assistant's turn opened."""
    return [token for message in messages for token in turn(message)] + opening("assistant")


def with_answers(messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and which of them the assistant wrote (its <|im_end|> too)."""
    tokens: list[int] = []
    written: list[bool] = []
    for message in messages:
        added = turn(message)
        head = len(opening(message["role"]))
        spoken = message["role"] == "assistant"
        tokens += added
        written += [False] * head + [spoken] * (len(added) - head - 1) + [False]
    return tokens, written
