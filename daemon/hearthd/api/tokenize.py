"""POST /tokenize and /detokenize, in vLLM's shapes."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from hearthd import wire
from hearthd.api import body, refusals
from hearthd.api.authentication import PRINCIPAL
from hearthd.api.keys import SERVING
from hearthd.api.logprobs import token_text
from hearthd.api.messages import template_messages
from hearthd.api.response import json_response
from hearthd.api.schema import DetokenizeRequest, TokenizeRequest
from hearthd.api.submission import template_arguments
from hearthd.api.tools import told
from hearthd.errors import InvalidRequest
from hearthd.serving.principal import LOCAL
from hearthd.serving.service import Serving

_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)


class Tokens(msgspec.Struct, frozen=True):
    """Tokens of a text or a chat."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class Text(msgspec.Struct, frozen=True):
    """The text of tokens."""

    prompt: str


async def tokenize(request: web.Request) -> web.Response:
    """Tokens of `prompt`, or of `messages` as the model's template renders them."""
    asked = await body.read(request, _tokenize_decoder)
    refusals.refuse(asked, refusals.TOKENIZE)
    if (asked.prompt is None) == (asked.messages is None):
        raise InvalidRequest("prompt: give either prompt or messages", param="prompt")
    serving = request.app[SERVING]
    model = _model_of(serving, asked.model)
    frame = wire.Encode(
        rid=0,
        text=asked.prompt,
        messages=None if asked.messages is None else template_messages(asked.messages),
        template_args=_template_arguments(asked),
        add_special=asked.add_special_tokens is not False,
        add_generation_prompt=asked.add_generation_prompt is not False,
    )
    encoded = await serving.encode(model, frame, request.get(PRINCIPAL, LOCAL))
    info = serving.model(model).info
    return json_response(
        Tokens(
            count=len(encoded.tokens),
            max_model_len=None if info is None else info.context,
            tokens=encoded.tokens,
            token_strs=[token_text(piece) for piece in encoded.pieces]
            if asked.return_token_strs
            else None,
        )
    )


async def detokenize(request: web.Request) -> web.Response:
    """The text of `tokens`."""
    asked = await body.read(request, _detokenize_decoder)
    serving = request.app[SERVING]
    model = _model_of(serving, asked.model)
    frame = wire.Decode(rid=0, tokens=asked.tokens)
    decoded = await serving.decode(model, frame, request.get(PRINCIPAL, LOCAL))
    return json_response(Text(decoded.text))


def _template_arguments(asked: TokenizeRequest) -> dict[str, Any]:
    arguments = template_arguments(asked.chat_template_kwargs)
    return {**arguments, "tools": told(asked.tools)} if asked.tools else arguments


def _model_of(serving: Serving, name: str | None) -> str:
    """The model asked for; without a name, the only one there is."""
    if name is not None:
        return name
    names = [status.name for status in serving.models()]
    if len(names) != 1:
        raise InvalidRequest(
            f"model: is required; there are: {', '.join(names) or 'none'}",
            param="model",
            code="missing_required_parameter",
        )
    return names[0]
