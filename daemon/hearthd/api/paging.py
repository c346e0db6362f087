"""Paging: which part of a list a client wants, and whose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar, cast

from aiohttp import web

from hearthd.api.authentication import PRINCIPAL
from hearthd.api.numbers import whole_number
from hearthd.batch.stored import Page
from hearthd.errors import InvalidRequest
from hearthd.serving.principal import LOCAL, RIGHTS, Principal


class Identified(Protocol):
    """An entry of a list."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Identified)


def owner_of(request: web.Request) -> str:
    """To whom belongs what a request makes."""
    principal: Principal = request.get(PRINCIPAL, LOCAL)
    return principal.name


def visible_to(request: web.Request) -> str | None:
    """Whose things a request may see and change; None: everybody's."""
    principal = request.get(PRINCIPAL, LOCAL)
    return None if principal.is_operator else principal.name


def listed_to(request: web.Request) -> str | None:
    """Whose things a request may know of; None: everybody's."""
    principal = request.get(PRINCIPAL, LOCAL)
    return None if "watch" in RIGHTS[principal.role] else principal.name


def page_of(request: web.Request, *, default: int, most: int) -> Page:
    """The page that a query asks for; raises InvalidRequest."""
    limit = whole_number(request.query.get("limit", str(default)), "limit", 1, most)
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("order: must be asc or desc", param="order")
    return Page(
        limit=limit,
        after=request.query.get("after") or None,
        order=cast(Literal["asc", "desc"], order),
        owner=listed_to(request),
        purpose=request.query.get("purpose") or None,
    )


def cut(found: Sequence[T], page: Page) -> tuple[Sequence[T], bool]:
    """What belongs on the page, and whether there is more. Pure."""
    return found[: page.limit], len(found) > page.limit
