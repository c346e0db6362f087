"""Directives: what a client's Cache-Control header allows a cache to do."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_SECONDS = 2**31  # RFC 9111, 1.2.2: what is over that means that


@dataclass(frozen=True, slots=True)
class Directives:
    """Those of RFC 9111, 5.2.1, that mean something to answers of models."""

    no_store: bool = False  # neither look nor keep
    no_cache: bool = False  # compute anew, and keep that
    only_if_cached: bool = False  # compute nothing
    max_age_seconds: int | None = None  # nothing older


def directives_of(header: str | None) -> Directives:
    """Read a header; what is unknown or malformed is ignored, as the RFC says. Pure."""
    if not header:
        return Directives()
    given: dict[str, str] = {}
    for part in header.split(","):
        name, _, value = part.partition("=")
        given.setdefault(name.strip().lower(), value.strip().strip('"'))
    age = given.get("max-age", "")
    return Directives(
        no_store="no-store" in given,
        no_cache="no-cache" in given,
        only_if_cached="only-if-cached" in given,
        max_age_seconds=min(int(age), _MOST_SECONDS) if age.isascii() and age.isdigit() else None,
    )
