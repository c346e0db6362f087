"""Every route, every bad input: one body, {"error": {message, type, param, code}}, and the right status."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from api_server import ApiServer
from fake_serving import FakeServing

from hearthd import wire
from hearthd.api.keys import ApiOptions
from hearthd.api.routes import ROUTES
from hearthd.errors import (
    ContextLengthExceeded,
    EngineFailed,
    HearthError,
    ModelFailed,
    Overloaded,
    ShuttingDown,
)

COMPLETION: dict[str, Any] = {"model": "canary", "prompt": "x"}
CHAT: dict[str, Any] = {"model": "canary", "messages": [{"role": "user", "content": "x"}]}
TOKENIZE: dict[str, Any] = {"model": "canary", "prompt": "x"}
DETOKENIZE: dict[str, Any] = {"model": "canary", "tokens": [104, 105]}
GOOD = {
    "/v1/completions": COMPLETION,
    "/v1/chat/completions": CHAT,
    "/tokenize": TOKENIZE,
    "/detokenize": DETOKENIZE,
}
POSTS = sorted(GOOD)
TRIED_ELSEWHERE = {
    "/v1/embeddings", "/v1/rerank", "/v2/rerank", "/rerank",
    "/api/v1/cache/import", "/api/v1/cache/audit",
    "/v1/files", "/v1/batches", "/v1/batches/{batch_id}/cancel",
    "/api/v1/keys", "/api/v1/models/{name:.+}/{operation}",
}  # fmt: skip


async def _error(answer: aiohttp.ClientResponse, status: int) -> dict[str, Any]:
    """The error of an answer, whose shape is checked."""
    text = await answer.text()
    assert answer.status == status, text
    assert answer.content_type == "application/json"
    assert answer.headers["X-Request-Id"]
    body = json.loads(text)
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    return error


def test_the_table_of_good_bodies_has_every_post() -> None:
    posts = {route.path for route in ROUTES if route.method == "POST"}
    assert sorted(posts - TRIED_ELSEWHERE) == POSTS
    assert posts >= TRIED_ELSEWHERE


@pytest.mark.parametrize("path", POSTS)
async def test_the_good_bodies_are_good(http: aiohttp.ClientSession, path: str) -> None:
    async with http.post(path, json=GOOD[path]) as answer:
        assert answer.status == 200, await answer.text()


# --- bodies that are no JSON object ------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A body that cannot be read, and what the message has to say."""

    data: bytes
    says: str


BROKEN = {
    "empty": Broken(b"", "has no body"),
    "blank": Broken(b"  \n", "has no body"),
    "truncated": Broken(b'{"model": "ca', "ends too early, at byte 13"),
    "syntax": Broken(b'{"model": x}', "byte 10"),
    "array": Broken(b"[1, 2]", "expected an object, got an array"),
    "string": Broken(b'"hello"', "expected an object, got a string"),
    "null": Broken(b"null", "expected an object, got null"),
    "latin-1": Broken(b'{"model": "caf\xe9"}', "not UTF-8"),
    "surrogate": Broken(b'{"model": "\\ud800 and more"}', "not valid JSON"),
    "deep": Broken(b'{"model": "canary", "documents": ' + b"[" * 200_000, "nested too deeply"),
    "huge number": Broken(b'{"model": 1e999}', "model"),
    "binary": Broken(bytes(range(256)), "not valid JSON"),
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", BROKEN)
async def test_a_body_that_is_no_json_object(
    http: aiohttp.ClientSession, path: str, name: str
) -> None:
    broken = BROKEN[name]
    async with http.post(path, data=broken.data) as answer:
        error = await _error(answer, 400)
    assert error["type"] == "invalid_request_error"
    if name != "deep" or path == "/v1/chat/completions":
        assert broken.says in error["message"]


@pytest.mark.parametrize("path", POSTS)
async def test_something_after_the_body(http: aiohttp.ClientSession, path: str) -> None:
    body = json.dumps(GOOD[path]).encode()
    async with http.post(path, data=body + b" {}") as answer:
        error = await _error(answer, 400)
    assert "trailing characters" in error["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_the_content_type_does_not_matter(
    http: aiohttp.ClientSession, content_type: str
) -> None:
    headers = {"Content-Type": content_type}
    async with http.post("/v1/completions", data=json.dumps(COMPLETION), headers=headers) as answer:
        assert answer.status == 200


async def test_a_body_that_says_it_is_compressed_and_is_not(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Encoding": "gzip"}
    body = json.dumps(COMPLETION).encode()
    async with http.post("/v1/completions", data=body, headers=headers) as answer:
        await _error(answer, 400)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit(serving: FakeServing, path: str, chunked: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b" " * 2000

    options = ApiOptions(max_body_bytes=1000)
    async with ApiServer(serving, options=options) as server, server.http() as http:
        data = parts() if chunked else b" " * 2000
        async with http.post(path, data=data) as answer:
            error = await _error(answer, 413)
    assert "1000 bytes" in error["message"]
    assert error["code"] == "body_too_large"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_choices_count_as_copies_of_the_body(serving: FakeServing, path: str) -> None:
    async with (
        ApiServer(serving, options=ApiOptions(max_body_bytes=1000)) as server,
        server.http() as http,
    ):
        async with http.post(path, json={**GOOD[path], "n": 2}) as answer:
            assert answer.status == 200
        async with http.post(path, json={**GOOD[path], "n": 100}) as answer:
            error = await _error(answer, 413)
    assert error["param"] == "n"
    assert len(serving.submits) == 2


# --- addresses and methods ---------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/complete", "/v1/models/", "/v1/completions/x"])
async def test_an_address_where_nothing_is(http: aiohttp.ClientSession, path: str) -> None:
    async with http.get(path) as answer:
        error = await _error(answer, 404)
    assert path in error["message"]
    assert error["code"] == "not_found"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
async def test_a_method_that_an_address_does_not_take(
    http: aiohttp.ClientSession, route: Any
) -> None:
    path = re.sub(r"\{[^}]*\}", "canary", route.path)
    async with http.put(path) as answer:
        error = await _error(answer, 405)
        assert route.method in answer.headers["Allow"]
    assert route.method in error["message"]


# --- models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", POSTS)
async def test_a_model_that_nobody_has(http: aiohttp.ClientSession, path: str) -> None:
    async with http.post(path, json={**GOOD[path], "model": "gpt-4o"}) as answer:
        error = await _error(answer, 404)
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "'gpt-4o'" in error["message"]
    assert "canary" in error["message"]


async def test_an_entry_of_a_model_that_nobody_has(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models/org/other") as answer:
        error = await _error(answer, 404)
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("refusal", "status", "retry_after"),
    [
        (Overloaded("full", retry_after_seconds=2.4), 429, "3"),
        (Overloaded("full"), 429, "1"),
        (ModelFailed("the file is truncated"), 503, None),
        (ShuttingDown("going down"), 503, "1"),
    ],
)
async def test_what_serving_refuses(
    serving: FakeServing,
    http: aiohttp.ClientSession,
    path: str,
    refusal: HearthError,
    status: int,
    retry_after: str | None,
) -> None:
    serving.refusal = refusal
    for stream in (False, True):
        async with http.post(path, json={**GOOD[path], "stream": stream}) as answer:
            error = await _error(answer, status)
            assert answer.headers.get("Retry-After") == retry_after
        assert error["message"] == refusal.message


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_engine_refuses(
    serving: FakeServing, http: aiohttp.ClientSession, path: str, stream: bool
) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        await asyncio.sleep(0)
        raise ContextLengthExceeded("2048 tokens, but 3000", param="prompt")
        yield

    serving.script = script
    async with http.post(path, json={**GOOD[path], "stream": stream, "n": 2}) as answer:
        error = await _error(answer, 400)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"


async def test_the_engine_fails_while_it_answers(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    async def script(submit: wire.Submit) -> AsyncIterator[wire.Delta]:
        yield wire.Delta(submit.rid, "a", [1], usage=wire.Usage(1, 1, 0))
        raise EngineFailed("gone")

    serving.script = script
    async with http.post("/v1/completions", json=COMPLETION) as answer:
        error = await _error(answer, 500)
    assert error["type"] == "server_error"


# --- fields ------------------------------------------------------------------------------------

WRONG_IN_BOTH: list[tuple[dict[str, Any], str, str]] = [
    # fields, param, part of the message
    ({"model": None}, "model", "a string"),
    ({"model": 3}, "model", "expected a string, got an integer"),
    ({"model": "m" * 257}, "model", "length <= 256"),
    ({"temperature": "hot"}, "temperature", "expected a number, got a string"),
    ({"temperature": 2.1}, "temperature", "a number <= 2.0"),
    ({"temperature": -0.1}, "temperature", "a number >= 0.0"),
    ({"top_p": 1.5}, "top_p", "<= 1.0"),
    ({"top_k": -2}, "top_k", ">= -1"),
    ({"top_k": 2.5}, "top_k", "an integer"),
    ({"min_p": -1}, "min_p", ">= 0.0"),
    ({"repetition_penalty": 0}, "repetition_penalty", "> 0.0"),
    ({"presence_penalty": 2.5}, "presence_penalty", "<= 2.0"),
    ({"frequency_penalty": -2.5}, "frequency_penalty", ">= -2.0"),
    ({"logit_bias": {"1": 101}}, "logit_bias[...]", "<= 100.0"),
    ({"logit_bias": {"hello": 1}}, "logit_bias", "a key is wrong"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "a key is wrong"),
    ({"logit_bias": [1]}, "logit_bias", "an object"),
    ({"n": 0}, "n", ">= 1"),
    ({"n": 129}, "n", "<= 128"),
    ({"n": True}, "n", "an integer"),
    ({"n": 10**30}, "n", "<= 128"),
    ({"seed": "x"}, "seed", "an integer"),
    ({"seed": 1.5}, "seed", "an integer"),
    ({"stop": ["x"] * 17}, "stop", "length <= 16"),
    ({"stop": ""}, "stop", "length >= 1"),
    ({"stop": ["a", ""]}, "stop[1]", "length >= 1"),
    ({"stop": 3}, "stop", "a string or an array"),
    ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]", ">= 0"),
    ({"stop_token_ids": [2**63]}, "stop_token_ids[0]", "<="),
    ({"min_tokens": 20, "max_tokens": 10}, "min_tokens", "over the 10 of max_tokens"),
    ({"min_tokens": -1}, "min_tokens", ">= 0"),
    ({"max_tokens": -1}, "max_tokens", ">="),
    ({"max_tokens": 2**40}, "max_tokens", "<="),
    ({"max_tokens": "16"}, "max_tokens", "an integer"),
    ({"ignore_eos": "yes"}, "ignore_eos", "true or false"),
    ({"stream": 1}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream = true"),
    ({"stream": True, "stream_options": 1}, "stream_options", "an object"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "'xml'"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        "required",
    ),
    ({"guided_json": "{"}, "guided_json", "no JSON schema"),
    ({"guided_json": 3}, "guided_json", "expected"),
    ({"guided_choice": []}, "guided_choice", "length"),
    ({"guided_choice": [1]}, "guided_choice[0]", "a string"),
    ({"guided_json": True, "guided_regex": "a"}, "guided_regex", "one thing only"),
    (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"choice": ["a"]}},
        "structured_outputs.choice",
        "one thing only",
    ),
    ({"structured_outputs": {"structural_tag": "a"}}, "structured_outputs.structural_tag", "tools"),
    ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "48"),
    ({"skip_special_tokens": False}, "skip_special_tokens", "never part of the text"),
    ({"prompt_logprobs": 0}, "prompt_logprobs", "echo"),
    ({"truncate_prompt_tokens": 10}, "truncate_prompt_tokens", "never cut"),
    ({"use_beam_search": True}, "use_beam_search", "no beam search"),
]
WRONG_COMPLETION: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "a string or an array"),
    ({"prompt": []}, "prompt", "is empty"),
    ({"prompt": {}}, "prompt", "a string or an array"),
    ({"prompt": [1, "a"]}, "prompt", "not a mixture"),
    ({"prompt": [1, [2]]}, "prompt", "not a mixture"),
    ({"prompt": [1, -2]}, "prompt[1]", ">= 0"),
    ({"prompt": [2**31]}, "prompt[0]", "<="),
    ({"prompt": [[1], [2, 1.5]]}, "prompt[1][1]", "an integer"),
    ({"prompt": ["a"] * 33, "n": 4}, "n", "132"),
    ({"logprobs": 21}, "logprobs", "<= 20"),
    ({"logprobs": True}, "logprobs", "an integer"),
    ({"echo": "yes"}, "echo", "true or false"),
    ({"best_of": 3}, "best_of", "equals n"),
    ({"suffix": "the end"}, "suffix", "not served"),
]
WRONG_CHAT: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "length >= 1"),
    ({"messages": "hi"}, "messages", "an array"),
    ({"messages": ["hi"]}, "messages[0]", "an object"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "is required"),
    ({"messages": [{"role": "usr", "content": "x"}]}, "messages[0].role", "did you mean 'user'"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "is required"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "a string"),
    (
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
        "messages[0].content[0].type",
        "is required",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
        "is required",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}
            ]
        },
        "messages[0].content[0].type",
        "'image_url'",
    ),
    (
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
        "not a JSON object",
    ),
    ({"max_tokens": 0}, "max_tokens", ">= 1"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", ">= 1"),
    ({"logprobs": 3}, "logprobs", "true or false"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "<= 20"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs = true"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
    ({"tools": [{"type": "web", "function": {"name": "f"}}]}, "tools[0].type", "'web'"),
    ({"tools": [{"function": {"name": "a b"}}]}, "tools[0].function.name", "regex"),
    (
        {"tools": [{"function": {"name": "f"}}, {"function": {"name": "f"}}]},
        "tools[1].function.name",
        "two tools",
    ),
    ({"tool_choice": "required"}, "tool_choice", "no tools"),
    ({"tool_choice": "all"}, "tool_choice", "'all'"),
    (
        {
            "tools": [{"function": {"name": "f"}}],
            "tool_choice": {"type": "function", "function": {"name": "g"}},
        },
        "tool_choice.function.name",
        "there are: f",
    ),
    (
        {"tools": [{"function": {"name": "f"}}], "guided_regex": "a"},
        "guided_regex",
        "held to JSON only",
    ),
    ({"functions": [{"name": "f"}]}, "functions", "use tools"),
    ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools", "set by the engine"),
    ({"functions": [{}]}, "functions", "older form"),
    ({"modalities": ["text", "audio"]}, "modalities", "answer in text"),
    ({"audio": {"voice": "x"}}, "audio", "answer in text"),
    ({"chat_template": "{{ x }}"}, "chat_template", "the model's file"),
    ({"add_generation_prompt": False}, "add_generation_prompt", "new message"),
    ({"continue_final_message": True}, "continue_final_message", "new message"),
    ({"echo": True}, "echo", "/v1/completions"),
    (
        {"chat_template_kwargs": {"messages": 1}},
        "chat_template_kwargs.messages",
        "set by the engine",
    ),
    ({"chat_template_kwargs": {"x": [2**64]}}, "chat_template_kwargs", "64 bits"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "an object"),
]
WRONG_TOKENIZE: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "either prompt or messages"),
    ({"messages": CHAT["messages"]}, "prompt", "either prompt or messages"),
    ({"prompt": 3}, "prompt", "a string"),
    ({"prompt": None, "messages": []}, "messages", "length >= 1"),
    ({"add_special_tokens": 1}, "add_special_tokens", "true or false"),
    ({"tools": [{}]}, "tools[0].function", "is required"),
    ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools", "set by the engine"),
    ({"chat_template_kwargs": 3}, "chat_template_kwargs", "an object"),
]
WRONG_DETOKENIZE: list[tuple[dict[str, Any], str, str]] = [
    ({"tokens": None}, "tokens", "an array"),
    ({"tokens": "hi"}, "tokens", "an array"),
    ({"tokens": [1, "a"]}, "tokens[1]", "an integer"),
    ({"tokens": [-1]}, "tokens[0]", ">= 0"),
    ({"tokens": [300]}, "tokens", "vocabulary"),
]
WRONG = [
    *[("/v1/completions", *case) for case in WRONG_IN_BOTH + WRONG_COMPLETION],
    *[("/v1/chat/completions", *case) for case in WRONG_IN_BOTH + WRONG_CHAT],
    *[("/tokenize", *case) for case in WRONG_TOKENIZE],
    *[("/detokenize", *case) for case in WRONG_DETOKENIZE],
]


async def test_a_wrong_field_is_named(serving: FakeServing, http: aiohttp.ClientSession) -> None:
    for path, fields, param, says in WRONG:
        async with http.post(path, json={**GOOD[path], **fields}) as answer:
            error = await _error(answer, 400)
        assert error["param"] == param, (path, fields, error)
        assert error["message"].startswith(param), (path, fields, error)
        assert says in error["message"], (path, fields, error)
        assert error["type"] == "invalid_request_error"
    assert not serving.submits, "nothing wrong reaches an engine"


@pytest.mark.parametrize("path", POSTS)
async def test_a_field_that_is_missing_is_named(http: aiohttp.ClientSession, path: str) -> None:
    required = {"/tokenize": [], "/detokenize": ["tokens"]}.get(path, list(GOOD[path]))
    for field in required:
        body = {name: value for name, value in GOOD[path].items() if name != field}
        async with http.post(path, json=body) as answer:
            error = await _error(answer, 400)
        assert error["param"] == field
        assert error["code"] == "missing_required_parameter"


async def test_unserved_fields_have_a_code_of_their_own(http: aiohttp.ClientSession) -> None:
    async with http.post(
        "/v1/chat/completions", json={**CHAT, "suffix": "x", "audio": {"a": 1}}
    ) as answer:
        assert (await _error(answer, 400))["code"] == "unsupported"


# --- what nobody foresaw -----------------------------------------------------------------------


class Buggy(FakeServing):
    """Raises what no handler knows."""

    def models(self) -> Any:
        raise ZeroDivisionError("secret detail")


async def test_a_bug_is_a_500_that_names_the_request_and_tells_no_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with ApiServer(Buggy()) as server, server.http() as http:
        with caplog.at_level(logging.ERROR):
            async with http.get("/v1/models", headers={"X-Request-Id": "my-id"}) as answer:
                error = await _error(answer, 500)
                assert answer.headers["X-Request-Id"] == "my-id"
    assert "my-id" in error["message"]
    assert "secret" not in error["message"]
    assert "ZeroDivisionError: secret detail" in caplog.text
