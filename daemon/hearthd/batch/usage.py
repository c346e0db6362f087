"""Usage: tokens that the answers of a batch took."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, frozen=True):
    """Sums over all answers."""

    n_prompt: int = 0
    n_cached: int = 0  # of n_prompt: not computed anew
    n_output: int = 0

    def plus(self, other: Usage) -> Usage:
        """Both together. Pure."""
        return Usage(
            self.n_prompt + other.n_prompt,
            self.n_cached + other.n_cached,
            self.n_output + other.n_output,
        )


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Told(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Body(msgspec.Struct):
    usage: _Told | None = None


_decoder = msgspec.json.Decoder(_Body)


def usage_in(body: bytes | msgspec.Raw) -> Usage:
    """What the body of an answer tells; nothing, where it tells nothing. Pure."""
    try:
        told = _decoder.decode(body).usage
    except msgspec.MsgspecError:
        return Usage()
    if told is None:
        return Usage()
    details = told.prompt_tokens_details
    cached = details.cached_tokens if details is not None else None
    return Usage(told.prompt_tokens, cached or 0, told.completion_tokens)
