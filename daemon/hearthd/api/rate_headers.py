"""Rate headers: what is left of a key's limits, under OpenAI's names."""

from __future__ import annotations

from hearthd.serving.quota import Standing


def rate_headers(standing: Standing) -> dict[str, str]:
    """Headers of an answer to a key with limits; none for one without. Pure.

    "requests" are those that may be under way at once: there is no limit of requests a minute.
    """
    headers: dict[str, str] = {}
    if standing.concurrency is not None:
        left = max(0, standing.concurrency - standing.n_active)
        headers["x-ratelimit-limit-requests"] = str(standing.concurrency)
        headers["x-ratelimit-remaining-requests"] = str(left)
    if standing.tokens_per_minute is not None:
        headers["x-ratelimit-limit-tokens"] = str(standing.tokens_per_minute)
        headers["x-ratelimit-remaining-tokens"] = str(standing.tokens_left)
        headers["x-ratelimit-reset-tokens"] = duration(standing.reset_seconds or 0.0)
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes it: 1m0s, 6.5s, 20ms."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:g}s"
    return f"{minutes}m{text}" if minutes else text
