"""What a frame can carry of the free-form values that clients send for their model's template."""

from __future__ import annotations

from typing import Any

import msgspec

from hearthd.errors import InvalidRequest

_encoder = msgspec.msgpack.Encoder()
_SPARE_LEVELS = 64  # frames nest it deeper than bodies do, and are made deeper in the stack


def check_carriable(value: Any, field: str) -> None:
    """Raise InvalidRequest for integers over 64 bits, and for nesting that frames have no room for."""
    nested = value
    for _ in range(_SPARE_LEVELS):
        nested = [nested]
    try:
        _encoder.encode(nested)
    except OverflowError as error:
        raise InvalidRequest(f"{field}: an integer has more than 64 bits", param=field) from error
    except RecursionError as error:
        raise InvalidRequest(f"{field}: is nested too deeply", param=field) from error
