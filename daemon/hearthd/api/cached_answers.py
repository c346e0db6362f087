"""The cache of answers, for those who look after it: what it holds, and adding and removing answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Final, TypeVar, cast, get_args

import msgspec
from aiohttp import web

from hearthd.api.access import describe
from hearthd.api.authentication import PRINCIPAL
from hearthd.api.keys import CACHE
from hearthd.api.numbers import whole_number
from hearthd.api.response import json_bytes, json_response
from hearthd.cache.answers import Order, Selection
from hearthd.cache.audit import Judged, Pair, report
from hearthd.cache.entry import Entry, Listed, ScopeSum
from hearthd.cache.exact import ExactCache
from hearthd.cache.guards import differs
from hearthd.cache.recording import BadRecording
from hearthd.cache.semantic import SemanticCache
from hearthd.errors import HearthError, InvalidRequest
from hearthd.serving.principal import LOCAL
from hearthd.store.errors import StoreError

T = TypeVar("T")

MOST_LISTED: Final = 1000
_PAGE: Final = 200  # answers read, or written, at once
_MOST_LINE_BYTES: Final = 64 * 1024 * 1024

_EMBEDDED: Final = 32  # pairs of one request for vectors

_pair_decoder = msgspec.json.Decoder(Pair)
_line_decoder = msgspec.json.Decoder(Entry)


class CacheSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache holds; and, for whoever may see all of it, what it did since the daemon started."""

    enabled: bool
    budget_bytes: int
    scopes: list[ScopeSum]
    results: dict[str, dict[str, int]] = {}  # by model, then by X-Cache
    saved_seconds: dict[str, float] = {}  # by model
    saved_tokens: dict[str, int] = {}
    faults: dict[str, int] = {}


class AnswerList(msgspec.Struct, frozen=True):
    """Some of the answers."""

    answers: list[Listed]


class Dropped(msgspec.Struct, frozen=True):
    """How many answers have gone."""

    dropped: int


class Imported(msgspec.Struct, frozen=True):
    """How many answers came, and how many of them were kept."""

    read: int
    kept: int


async def summary(request: web.Request) -> web.Response:
    """GET /api/v1/cache"""
    cache = request.app[CACHE]
    own = _own_partition(request)
    held = [] if cache.exact is None else await _stored(cache.exact.scopes(own))
    shown = CacheSummary(
        enabled=cache.exact is not None, budget_bytes=cache.policy.cache.budget, scopes=held
    )
    if own is None:
        counts = cache.counts
        results: dict[str, dict[str, int]] = {}
        for (model, result), n in counts.results.items():
            results.setdefault(model, {})[result] = n
        shown = msgspec.structs.replace(
            shown,
            results=results,
            saved_seconds=dict(counts.saved_seconds),
            saved_tokens=dict(counts.saved_tokens),
            faults=dict(counts.faults),
        )
    return json_response(shown)


async def list_answers(request: web.Request) -> web.Response:
    """GET /api/v1/cache/answers"""
    order = request.query.get("order", "recent")
    if order not in get_args(Order):
        raise InvalidRequest(f"order: must be one of {', '.join(get_args(Order))}", param="order")
    limit = whole_number(request.query.get("limit", "50"), "limit", 1, MOST_LISTED)
    which = _selection(request)
    exact = _exact(request)
    found = await _stored(exact.listed(which, cast(Order, order), limit))
    return json_response(AnswerList(found))


async def drop_answers(request: web.Request) -> web.Response:
    """DELETE /api/v1/cache/answers; all of them only where `all=true` says so."""
    which = _selection(request)
    if which.partition is None:
        describe(request, f"model {which.model or 'any'}, key {which.key or 'any'}")
    if which.model is None and which.key is None and request.query.get("all") != "true":
        raise InvalidRequest("say which: key, model, or all=true", param="all")
    _exact(request)
    return json_response(Dropped(await request.app[CACHE].drop(which)))


async def export_answers(request: web.Request) -> web.StreamResponse:
    """GET /api/v1/cache/export: one answer a line."""
    which, exact = _selection(request), _exact(request)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    after = 0
    while True:
        after, entries = await _stored(exact.page(which, after, _PAGE))
        if not response.prepared:
            await response.prepare(request)
        await response.write(b"".join([json_bytes(entry) + b"\n" for entry in entries]))
        if not after:
            return response


async def import_answers(request: web.Request) -> web.Response:
    """POST /api/v1/cache/import: the lines of an export. What comes twice counts once."""
    exact = _exact(request)
    n_read = n_kept = 0
    batch: list[Entry] = []
    async for line in _lines(request):
        n_read += 1
        batch.append(_entry(line, n_read))
        if len(batch) == _PAGE:
            n_kept += await _loaded(exact, batch, n_read)
            batch = []
    n_kept += await _loaded(exact, batch, n_read)
    return json_response(Imported(n_read, n_kept))


async def audit(request: web.Request) -> web.Response:
    """POST /api/v1/cache/audit: what each threshold would make of pairs that people have judged."""
    semantic = request.app[CACHE].semantic
    if semantic is None:
        raise InvalidRequest("no model compares questions (cache.embedder)", code="cache_off")
    judged: list[Judged] = []
    pairs: list[Pair] = []
    async for line in _lines(request):
        pairs.append(_pair(line, len(judged) + len(pairs) + 1))
        if len(pairs) == _EMBEDDED:
            judged += await _judged(semantic, pairs)
            pairs = []
    judged += await _judged(semantic, pairs)
    return json_response(report(judged))


async def _judged(semantic: SemanticCache, pairs: list[Pair]) -> list[Judged]:
    if not pairs:
        return []
    similarities = await semantic.similarities([(pair.a, pair.b) for pair in pairs])
    return [
        Judged(pair.same, similarity, differs(pair.a, pair.b))
        for pair, similarity in zip(pairs, similarities, strict=True)
    ]


def _pair(line: bytes, number: int) -> Pair:
    try:
        return _pair_decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"line {number}: no pair of questions: {error}") from error


# --- parts -------------------------------------------------------------------------------------


def _own_partition(request: web.Request) -> str | None:
    """The answers that the caller may see; None: all."""
    principal = request.get(PRINCIPAL, LOCAL)
    return None if principal.is_operator else request.app[CACHE].policy.partition(principal)


def _exact(request: web.Request) -> ExactCache:
    exact = request.app[CACHE].exact
    if exact is None:
        raise InvalidRequest("the cache is off (cache.enabled)", code="cache_off")
    return exact


def _selection(request: web.Request) -> Selection:
    key = request.query.get("key")
    if key is not None and (len(key) < 4 or len(key) % 2 or not _is_hex(key)):
        raise InvalidRequest("key: must be 4 or more hexadecimal digits, in pairs", param="key")
    return Selection(partition=_own_partition(request), model=request.query.get("model"), key=key)


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdefABCDEF" for letter in text)


async def _stored(work: Awaitable[T]) -> T:
    try:
        return await work
    except StoreError as error:
        raise HearthError(f"the cache cannot be read: {error}", code="cache_failed") from error


async def _loaded(exact: ExactCache, batch: list[Entry], n_read: int) -> int:
    try:
        return await _stored(exact.load(batch)) if batch else 0
    except BadRecording as error:
        first = n_read - len(batch) + 1
        raise InvalidRequest(f"lines {first} to {n_read}: an answer is damaged: {error}") from error


def _entry(line: bytes, number: int) -> Entry:
    try:
        return _line_decoder.decode(line)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"line {number}: no answer of an export: {error}") from error


async def _lines(request: web.Request) -> AsyncIterator[bytes]:
    rest = b""
    async for data in request.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield line
        if len(rest) > _MOST_LINE_BYTES:
            raise InvalidRequest(f"a line has more than {_MOST_LINE_BYTES} bytes")
    if rest.strip():
        yield rest
