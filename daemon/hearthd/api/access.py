"""Access: a request is let in where its principal has the right that the address needs; admin actions are recorded."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from hearthd.access.action import Action
from hearthd.api.authentication import PRINCIPAL, authenticate
from hearthd.api.caller import caller_of
from hearthd.api.envelope import REQUEST_ID
from hearthd.api.keys import KEYRING, REGISTER
from hearthd.serving.principal import LOCAL, Principal, Right

RIGHTS: Final = web.AppKey("rights", dict[tuple[str, web.AbstractResource], Right])
"""What each method of each address needs; `routes` fills it."""
_DETAIL: Final = web.RequestKey("detail", str)


@asynccontextmanager
async def admit(request: web.Request) -> AsyncIterator[None]:
    """Let a request in, as long as its key counts; raises Unauthorized, Forbidden, TooManyWrongKeys."""
    right = right_of(request)
    if right == "open":
        yield
        return
    principal = authenticate(request)
    if right is not None:  # else nothing is there, which is said to whoever may ask at all
        principal.check_right(right)
    async with leashed(request, principal):
        yield


@asynccontextmanager
async def leashed(request: web.Request, principal: Principal) -> AsyncIterator[None]:
    """What is within ends when the principal's key is revoked: raises Unauthorized."""
    if principal.name in request.app[KEYRING]:
        async with request.app[REGISTER].leashes.held(principal.name, request):
            yield
    else:
        yield


def right_of(request: web.Request) -> Right | None:
    """What a request's address needs; None where there is no such address or method."""
    resource = request.match_info.route.resource
    if resource is None:
        return None
    method = "GET" if request.method == "HEAD" else request.method
    return request.app[RIGHTS].get((method, resource))


def set_rights(app: web.Application, routes: Mapping[Right, tuple[web.RouteDef, ...]]) -> None:
    """Add routes to an app, and remember what each of them needs."""
    rights = app[RIGHTS] = {}
    for right, definitions in routes.items():
        for route in app.add_routes(definitions):
            if route.resource is not None:
                rights[route.method, route.resource] = right


# --- the record --------------------------------------------------------------------------------


def describe(request: web.Request, detail: str) -> None:
    """Say what an action is about, for the record; what says so is recorded whatever right it needs."""
    request[_DETAIL] = detail


def record(request: web.Request, status: int) -> None:
    """Put a request on the record where it was, or tried to be, an operator's action."""
    if right_of(request) != "admin" and _DETAIL not in request:
        return
    principal = request.get(PRINCIPAL)
    if principal is None:
        return  # anybody could fill the record with what was never let in
    who = "local operator" if principal is LOCAL else principal.name
    request.app[REGISTER].note(
        Action(
            at=time.time(),
            who=who,
            origin=caller_of(request).origin,
            action=f"{request.method} {request.path}",
            detail=request.get(_DETAIL, ""),
            status=status,
            request_id=request.get(REQUEST_ID, ""),
        )
    )
