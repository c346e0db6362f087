"""Prompts of an exact number of tokens, as token ids or as text that the server's tokenizer counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import aiohttp

from hearth_bench.endpoint import Endpoint, EndpointError

Count = Callable[[str], Awaitable[int]]
"""Tokens of a text."""

Words = Callable[[Random, int], str]
"""So many words of a text."""

Prompt = str | list[int]

_TEXT = """the ember in a stove keeps its heat when ash lies over it and slow air comes from below
so that morning finds the iron warm while wind turns snow against every window of our house"""
_WORDS = _TEXT.split()
_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnprstvwxz"
_TAILS = (" a", "a", ".", " the", "e", "!", " I")
_ATTEMPTS = 64


def random_ids(rng: Random, n_tokens: int, id_range: tuple[int, int]) -> list[int]:
    """Token ids drawn evenly from [low, high)."""
    low, high = id_range
    return [rng.randrange(low, high) for _ in range(n_tokens)]


def random_words(rng: Random, n_words: int) -> str:
    """Words in random order, with numbers between so that no two texts begin alike."""
    return " ".join(
        rng.choice(_WORDS) if i % 4 else str(rng.randrange(10_000)) for i in range(n_words)
    )


def invented_words(rng: Random, n_words: int) -> str:
    """Words that nobody has said before, so that few come twice: what to repeat is told by one or two."""
    return " ".join(
        "".join(
            rng.choice(_VOWELS if (i + first) % 2 else _CONSONANTS)
            for i in range(rng.randint(3, 7))
        )
        for first in (rng.randrange(2) for _ in range(n_words))
    )


async def text_of_length(
    rng: Random, n_tokens: int, count: Count, head: str = "", make: Words = random_words
) -> str:
    """`head` and words of `make` after it, `n_tokens` in all; raises EndpointError where that fails.

    Bisects over the number of words, then tries short tails: most vocabularies have one that adds
    exactly one token, and where it does not, the words before it are drawn again.
    """
    for _ in range(_ATTEMPTS):
        words = make(rng, n_tokens).split()
        text = await _longest(head, words, n_tokens, count)
        stuck = False
        while (n := await count(text)) < n_tokens and not stuck:
            stuck = True
            for tail in _TAILS:
                if n < await count(text + tail) <= n_tokens:
                    text, stuck = text + tail, False
                    break
        if n == n_tokens:
            return text
    raise EndpointError(f"found no text of exactly {n_tokens} tokens")


async def _longest(head: str, words: list[str], n_tokens: int, count: Count) -> str:
    """`head` and as many of the words as fit into n_tokens."""

    def first(n_words: int) -> str:
        return " ".join([head, *words[:n_words]] if head else words[:n_words])

    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if await count(first(middle)) <= n_tokens:
            low = middle
        else:
            high = middle - 1
    return first(low)


class ServerTokenizer:
    """Counts tokens by the server's /tokenize, in vLLM's dialect (hearthd's too) or llama-server's."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession, model: str) -> None:
        self._url = f"{endpoint.root}/tokenize"
        self._session = session
        self._model = model
        self._dialect: Callable[[str, bool], dict[str, Any]] | None = None

    async def count(self, text: str, *, add_special: bool = False) -> int:
        """Tokens of a text; raises EndpointError where the server has no /tokenize."""
        dialects = [self._dialect] if self._dialect else [self._vllm, self._llama_server]
        if not text:
            return 0
        for dialect in dialects:
            tokens = await self._tokens(dialect(text, add_special))
            if tokens:
                self._dialect = dialect
                return len(tokens)
        raise EndpointError(f"{self._url} does not count tokens; use --tokenizer ids")

    async def _tokens(self, body: dict[str, Any]) -> list[Any]:
        async with self._session.post(self._url, json=body) as answer:
            if answer.status != 200:
                return []
            found: Any = await answer.json(content_type=None)
        return list(found.get("tokens") or [])

    def _vllm(self, text: str, add_special: bool) -> dict[str, Any]:
        return {"model": self._model, "prompt": text, "add_special_tokens": add_special}

    @staticmethod
    def _llama_server(text: str, add_special: bool) -> dict[str, Any]:
        return {"content": text, "add_special": add_special}
