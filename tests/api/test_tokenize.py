"""POST /tokenize and /detokenize in vLLM's shapes."""

from __future__ import annotations

from typing import Any

import aiohttp
from fake_serving import FakeServing, model_status


async def _post(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with http.post(path, json=body) as answer:
        assert answer.status == 200, await answer.text()
        result: dict[str, Any] = await answer.json()
        return result


async def test_a_text(serving: FakeServing, http: aiohttp.ClientSession) -> None:
    body = {"model": "canary", "prompt": "hé", "return_token_strs": True}
    assert await _post(http, "/tokenize", body) == {
        "count": 3,
        "max_model_len": 2048,
        "tokens": [104, 195, 169],
        "token_strs": ["h", "bytes:\\xc3", "bytes:\\xa9"],
    }
    assert serving.encodes[0].add_special
    body = {"model": "canary", "prompt": "h", "add_special_tokens": False}
    assert (await _post(http, "/tokenize", body))["token_strs"] is None
    assert not serving.encodes[1].add_special


async def test_a_chat(serving: FakeServing, http: aiohttp.ClientSession) -> None:
    messages = [{"role": "developer", "content": [{"type": "text", "text": "x"}]}]
    await _post(http, "/tokenize", {"model": "canary", "messages": messages})
    body = {"model": "canary", "messages": messages, "add_generation_prompt": False}
    await _post(http, "/tokenize", body)
    first, second = serving.encodes
    assert first.messages == [{"role": "system", "content": "x"}]
    assert first.text is None
    assert first.add_generation_prompt
    assert not second.add_generation_prompt
    assert (first.template_args, second.template_args) == ({}, {})


async def test_a_chat_is_counted_with_what_its_template_is_told(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "chat_template_kwargs": {"enable_thinking": False, "text": 1},
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    await _post(http, "/tokenize", body)
    (frame,) = serving.encodes
    (tool,) = frame.template_args.pop("tools")
    assert tool["function"]["name"] == "f"
    assert frame.template_args == {"enable_thinking": False, "text": 1}


async def test_there_and_back(http: aiohttp.ClientSession) -> None:
    tokens = (await _post(http, "/tokenize", {"model": "canary", "prompt": "héllo"}))["tokens"]
    body = {"model": "canary", "tokens": tokens}
    assert await _post(http, "/detokenize", body) == {"prompt": "héllo"}


async def test_the_only_model_needs_no_name(
    serving: FakeServing, http: aiohttp.ClientSession
) -> None:
    await _post(http, "/tokenize", {"prompt": "x"})
    serving.statuses = (model_status("a"), model_status("b"))
    async with http.post("/tokenize", json={"prompt": "x"}) as answer:
        assert answer.status == 400
        assert "a, b" in (await answer.json())["error"]["message"]
