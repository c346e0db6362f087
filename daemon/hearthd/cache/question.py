"""Question: the words of a request that people know it by."""

from __future__ import annotations

from collections.abc import Sequence

from hearthd.cache.entry import QUESTION_CHARS
from hearthd.serving.generation import GenerationRequest


def question_of(requests: Sequence[GenerationRequest]) -> str:
    """The end of a prompt, or of the last message of a chat, on one line; of tokens, their number. Pure."""
    submit = requests[0].submit
    if submit.messages:
        content = submit.messages[-1].get("content")
        text = content if isinstance(content, str) else ""
    elif submit.text is not None:
        text = submit.text
    else:
        text = f"({len(submit.tokens or ())} tokens)"
    line = " ".join(text.split())
    return line if len(line) <= QUESTION_CHARS else f"…{line[1 - QUESTION_CHARS :]}"
