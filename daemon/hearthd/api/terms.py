"""Terms: how urgent a request is and when it is of no use any more, as its headers say."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from aiohttp import web

from hearthd.api.authentication import PRINCIPAL
from hearthd.config.schema import RequestClass
from hearthd.errors import Forbidden, InvalidRequest
from hearthd.serving.principal import LEVELS, LOCAL, Principal

CLASS_HEADER: Final = "X-Request-Class"
DEADLINE_HEADER: Final = "X-Request-Deadline"

MOST_SECONDS_FROM_NOW = 1e8
"""Numbers above are moments of unix time."""

_CLASSES: Mapping[str, RequestClass] = {name: name for name in LEVELS}
_TIERS: Mapping[str, RequestClass | None] = {
    "auto": None, "default": None, "flex": "batch", "priority": "interactive",
}  # fmt: skip
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?", re.ASCII)
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)


@dataclass(frozen=True, slots=True)
class Terms:
    """On whose behalf, how urgent, and until when."""

    principal: Principal
    klass: RequestClass
    deadline_seconds: float | None  # monotonic clock


def terms_of(request: web.Request, service_tier: str | None = None) -> Terms:
    """The terms of a request; raises InvalidRequest, Forbidden. The header counts before the field."""
    principal = request.get(PRINCIPAL, LOCAL)
    headers = request.headers
    header = headers.get(CLASS_HEADER)
    deadline = headers.get(DEADLINE_HEADER)
    return Terms(
        principal,
        class_of(header, service_tier, principal),
        None if deadline is None else time.monotonic() + seconds_until(deadline, time.time()),
    )


def class_of(header: str | None, service_tier: str | None, principal: Principal) -> RequestClass:
    """The class that is asked for, or the principal's own; raises InvalidRequest, Forbidden. Pure."""
    klass: RequestClass | None
    if header is not None:
        param, value, klass = CLASS_HEADER, header, _CLASSES.get(header.strip().lower())
        if klass is None:
            raise InvalidRequest(
                f"{param}: must be one of {', '.join(_CLASSES)}, not {header!r}", param=param
            )
    elif service_tier is not None:
        param, value, klass = "service_tier", service_tier, _TIERS.get(service_tier)
        if service_tier not in _TIERS:
            raise InvalidRequest(
                f"{param}: must be one of {', '.join(_TIERS)}, not {service_tier!r}", param=param
            )
    else:
        return principal.default_class
    if klass is None:
        return principal.default_class
    if not principal.may_ask_for(klass):
        raise Forbidden(
            f"{param}: the key {principal.name} may ask for {principal.klass} at most, not for {value}",
            param=param,
            code="class_not_allowed",
        )
    return klass


def check_concurrency(principal: Principal, n_choices: int) -> None:
    """Raise InvalidRequest for a request that alone is more than its key may have under way."""
    most = principal.limits.concurrency
    if most is not None and n_choices > most:
        raise InvalidRequest(
            f"n: {n_choices} choices are more than the {most} that the key {principal.name} may have "
            "under way at once (limits.concurrency)",
            param="n",
        )


def seconds_until(text: str, unix_now: float) -> float:
    """Seconds from now to a deadline; below 0 where it has passed. Raises InvalidRequest. Pure.

    A number of seconds from now, unix time, RFC 3339 with its zone, or an HTTP date.
    """
    text = text.strip()
    if _NUMBER.fullmatch(text):
        number = float(text)
        return number if number <= MOST_SECONDS_FROM_NOW else number - unix_now
    moment: datetime | None = None
    try:
        if _RFC_3339.fullmatch(text):
            moment = datetime.fromisoformat(text.upper())
        elif _HTTP_DATE.fullmatch(text):
            moment = parsedate_to_datetime(text).replace(tzinfo=UTC)
    except ValueError:
        moment = None
    if moment is None:
        raise InvalidRequest(
            f"{DEADLINE_HEADER}: must be seconds from now, unix time, RFC 3339 with a time zone, or an "
            f"HTTP date, not {text[:64]!r}",
            param=DEADLINE_HEADER,
        )
    return moment.timestamp() - unix_now
