"""Intake: what a submit becomes, and what is refused before it reaches the scheduler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hearth_backends.base import AdapterSpec, LoadedModel
from hearth_backends.registry import open_model
from hearthd import wire
from hearthd.engine.intake import Arrival, Intake
from hearthd.engine.refused import Refused

CONTEXT = 64
ADAPTERS = {"s": AdapterSpec(Path("s.gguf"), "digest of s", 1)}
USER = [{"role": "user", "content": "hi"}]


def model(path: str = "sim:", **changes: Any) -> LoadedModel:
    opened = open_model(path)
    return replace(opened, spec=replace(opened.spec, **changes))


def submit(subject: LoadedModel | None = None, **fields: Any) -> Arrival:
    frame = wire.Submit(rid=1, **{"sampling": wire.Sampling(), **fields})
    return Intake(subject or model(), context=CONTEXT, adapters=ADAPTERS).submit(frame)


def refusal(subject: LoadedModel | None = None, **fields: Any) -> wire.Reject:
    with pytest.raises(Refused) as caught:
        submit(subject, **fields)
    return caught.value.frame


def test_a_chat_is_rendered_with_its_control_tokens() -> None:
    request = submit(messages=USER).request
    assert request.tokens == [
        258, *b"user\nhi", 257, *b"\n", 258, *b"assistant\n",
    ]  # fmt: skip


@pytest.mark.parametrize(("add_special", "first"), [(True, 256), (False, ord("h"))])
def test_a_text_begins_with_bos_where_the_model_and_the_client_want_it(
    add_special: bool, first: int
) -> None:
    assert submit(model("sim:bos=1"), text="hi", add_special=add_special).request.tokens[0] == first
    assert submit(model(), text="hi", add_special=add_special).request.tokens == list(b"hi")


@pytest.mark.parametrize(
    "template", ["{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"]
)
def test_a_chat_has_one_bos_whether_the_template_writes_it_or_not(template: str) -> None:
    tokens = submit(model("sim:bos=1", chat_template=template), messages=USER).request.tokens
    assert tokens == [256, *b"hi"]


def test_limits_and_ends() -> None:
    request = submit(text="hi", max_tokens=9, min_tokens=2, stop_token_ids=[65], stop=["x"]).request
    assert request.limits.max_output == 9
    assert request.limits.end_ids == {65, 257, 259}
    assert request.limits.banned_early == (65, 257, 259)
    assert submit(text="hi", ignore_eos=True, stop_token_ids=[65]).request.limits.end_ids == {65}
    assert submit(text="hi").request.limits.max_output == CONTEXT - 2


def test_tokens_already_sent_count_as_output() -> None:
    request = submit(text="hi", emitted=[66, 67], max_tokens=9).request
    assert (request.tokens, request.n_prompt, request.n_output) == ([*b"hi", 66, 67], 2, 2)


def test_a_prompt_that_is_scored_is_not_shared() -> None:
    assert not submit(text="hi", prompt_logprobs=0).request.shares
    assert submit(text="hi").request.shares


def test_salt_and_adapter_name_other_prefixes() -> None:
    text = "a text of more than one block of tokens"
    asked: list[dict[str, Any]] = [{}, {"salt": "s"}, {"adapter": "s"}]
    firsts = {submit(text=text, **fields).request.block_hashes[0] for fields in asked}
    assert len(firsts) == 3


@pytest.mark.parametrize(
    ("fields", "code", "param", "words"),
    [
        ({"text": "x" * 65}, "context_length_exceeded", "prompt", "64 tokens, but the request has 65"),
        ({"text": "x" * 60, "max_tokens": 5}, "context_length_exceeded", "prompt", "has 65"),
        ({"messages": [{"role": "user", "content": "x" * 99}]}, "context_length_exceeded", "messages", "64"),
        ({"text": ""}, "invalid_value", "prompt", "no tokens"),
        ({"tokens": [65, 300]}, "invalid_value", "prompt", "prompt[1]: token 300"),
        ({"tokens": [-1]}, "invalid_value", "prompt", "prompt[0]"),
        ({"text": "a", "stop_token_ids": [999]}, "invalid_value", "stop_token_ids", "999"),
        ({"text": "a", "emitted": [999]}, "invalid_value", "emitted", "999"),
        ({"text": "a", "sampling": wire.Sampling(logit_bias=[(999, 1.0)])}, "invalid_value", "logit_bias", "999"),
        ({"messages": [{"role": "user"}]}, "invalid_value", "messages", "template"),
    ],
)  # fmt: skip
def test_refusals(fields: dict[str, Any], code: str, param: str, words: str) -> None:
    frame = refusal(**fields)
    assert (frame.status, frame.code, frame.param) == (400, code, param)
    assert words in frame.message


def test_a_model_without_a_usable_template_takes_no_chats() -> None:
    assert refusal(model(chat_template=None), messages=USER).code == "no_chat_template"
    broken = refusal(model(chat_template="{% if %}"), messages=USER)
    assert broken.code == "no_chat_template"
    assert "does not compile" in broken.message


def test_template_arguments_of_any_name_harm_nobody() -> None:
    names = ["rid", "text", "self", "add_special", "template_args", "messages", "x y"]
    arguments = dict.fromkeys(names, "z")
    plain = submit(messages=USER).request.tokens
    assert submit(messages=USER, template_args=arguments).request.tokens == plain
    encode = wire.Encode(rid=1, messages=USER, template_args=arguments)
    assert Intake(model(), context=CONTEXT).encode(encode).tokens == plain


def test_tokens_are_counted_as_the_template_is_told() -> None:
    intake = Intake(model(chat_template="{{ x }}{{ add_generation_prompt }}"), context=CONTEXT)
    frame = wire.Encode(1, messages=USER, template_args={"x": 7}, add_generation_prompt=False)
    assert intake.encode(frame).tokens == list(b"7False")
