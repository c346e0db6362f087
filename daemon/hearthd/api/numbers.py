"""Numbers: those that a client writes in an address or a form, within bounds."""

from __future__ import annotations

from typing import Final

from hearthd.errors import InvalidRequest

_MOST_DIGITS: Final = 15
MOST_WHOLE: Final = 10**_MOST_DIGITS - 1
"""The largest that `whole_number` reads."""


def whole_number(text: str, param: str, least: int = 0, most: int = MOST_WHOLE) -> int:
    """Of ASCII digits, from `least` to `most`; raises InvalidRequest. Pure."""
    if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS:
        number = int(text)
        if least <= number <= most:
            return number
    raise InvalidRequest(
        f"{param}: must be a whole number from {least} to {most}, not {text[:64]!r}", param=param
    )


def seconds_of(text: str, param: str, most: float) -> float:
    """From 0 to `most`; raises InvalidRequest. Pure."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= most:  # which is false of nan, too
        raise InvalidRequest(f"{param}: must be 0 to {most:.0f}", param=param)
    return seconds
