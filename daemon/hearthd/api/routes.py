"""The route table: every address that hearthd answers, and the right that each needs, on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Final

from aiohttp import web

from hearthd.api import (
    access,
    box,
    cached_answers,
    devices,
    key_management,
    middleware,
    openai_batches,
    openai_chat,
    openai_completions,
    openai_embeddings,
    openai_files,
    openai_models,
    operating,
    rerank,
    system,
    tokenize,
    top,
)
from hearthd.serving.principal import Right

ROUTES_BY_RIGHT: Final[Mapping[Right, tuple[web.RouteDef, ...]]] = {
    "open": (  # what starts and watches the daemon has no key
        web.get("/livez", system.livez),
        web.get("/readyz", system.readyz),
        web.get("/health", system.readyz),  # what other servers call it
    ),
    "read": (
        web.get("/v1/models", openai_models.list_models),
        web.get("/v1/models/{name:.+}", openai_models.get_model),
        web.get("/v1/files", openai_files.list_files),
        web.get("/v1/files/{file_id}", openai_files.get_file),
        web.get("/v1/batches", openai_batches.list_batches),
        web.get("/v1/batches/{batch_id}", openai_batches.get_batch),
        web.get("/api/v1/devices", devices.list_devices),
        web.get("/api/v1/cache", cached_answers.summary),
        web.get("/api/v1/cache/answers", cached_answers.list_answers),
        web.get("/api/v1/box", box.show_box),
        web.get("/metrics", system.metrics),
        web.get("/version", system.version),
    ),
    "watch": (
        web.get("/api/v1/keys", key_management.list_keys),
        web.get("/api/v1/audit", key_management.list_actions),
        web.get("/api/v1/top", top.show_top),
    ),
    "use": (
        web.post("/v1/completions", openai_completions.completions),
        web.post("/v1/chat/completions", openai_chat.chat_completions),
        web.post("/v1/embeddings", openai_embeddings.embeddings),
        web.post("/v1/rerank", rerank.rerank),
        web.post("/v2/rerank", rerank.rerank_v2),
        web.post("/rerank", rerank.rerank),  # what other servers call it
        web.post("/tokenize", tokenize.tokenize),
        web.post("/detokenize", tokenize.detokenize),
        web.delete("/api/v1/cache/answers", cached_answers.drop_answers),  # a key: its own
    ),
    "batch": (
        web.post("/v1/files", openai_files.upload),
        web.get("/v1/files/{file_id}/content", openai_files.get_content),
        web.delete("/v1/files/{file_id}", openai_files.delete_file),
        web.post("/v1/batches", openai_batches.create_batch),
        web.post("/v1/batches/{batch_id}/cancel", openai_batches.cancel_batch),
    ),
    "admin": (
        web.get("/api/v1/cache/export", cached_answers.export_answers),
        web.post("/api/v1/cache/import", cached_answers.import_answers),
        web.post("/api/v1/cache/audit", cached_answers.audit),
        web.post("/api/v1/keys", key_management.add_key),
        web.delete("/api/v1/keys/{name}", key_management.revoke_key),
        web.delete("/api/v1/requests/{number}", operating.cancel_request),
        web.post("/api/v1/models/{name:.+}/{operation}", operating.operate),
    ),
}

ROUTES = tuple(chain.from_iterable(ROUTES_BY_RIGHT.values()))


def setup(app: web.Application) -> None:
    """Add routes and middleware; the app has, or gets before it starts, what `keys` names.

    Its runner is to have `handler_cancellation=True`: that is how a request ends when its client goes.
    """
    app.middlewares.append(middleware.watch)
    app.on_response_prepare.append(middleware.name_answer)
    app.on_startup.append(top.remember_start)
    access.set_rights(app, ROUTES_BY_RIGHT)
