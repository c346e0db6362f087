"""Refusals: fields that clients know and Hearth does not serve yet, refused where they would matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hearthd.errors import InvalidRequest

_NOTHING: tuple[Any, ...] = (False, "", [], {})


@dataclass(frozen=True, slots=True)
class Rule:
    """Why a field is refused, and the values (beside null) that ask for nothing."""

    why: str
    neutral: tuple[Any, ...] = _NOTHING


def _unless(value: Any, why: str) -> Rule:
    return Rule(why, (*_NOTHING, value))


def _always(value: Any, why: str) -> Rule:
    return Rule(why, (value,))


_OLD_TOOLS = "this older form is not served; use tools and tool_choice"

COMMON: Mapping[str, Rule] = {
    "guided_whitespace_pattern": Rule("whitespace is as JSON has it, up to 48 signs at a place"),
    "logits_processors": Rule("code of clients is not run"),
    "bad_words": Rule("not served; use logit_bias"),
    "use_beam_search": Rule("there is no beam search"),
    "prompt_logprobs": Rule("not served; use echo and logprobs of /v1/completions"),
    "truncate_prompt_tokens": Rule("a prompt is never cut; shorten it"),
    "skip_special_tokens": _always(True, "control tokens are never part of the text"),
    "return_tokens_as_token_ids": Rule("tokens come as text"),
}

COMPLETION: Mapping[str, Rule] = {
    **COMMON,
    "suffix": Rule("filling in the middle is not served"),
    "prompt_embeds": Rule("prompts are text or token ids"),
}

CHAT: Mapping[str, Rule] = {
    **COMMON,
    "functions": Rule(_OLD_TOOLS),
    "function_call": Rule(_OLD_TOOLS, (*_NOTHING, "none", "auto")),
    "modalities": _unless(["text"], "models answer in text"),
    "audio": Rule("models answer in text"),
    "web_search_options": Rule("nothing is searched from here"),
    "documents": Rule("not served; put the documents into a message"),
    "chat_template": Rule("the template is the one of the model's file"),
    "add_generation_prompt": _always(True, "an answer always begins a new message"),
    "continue_final_message": Rule("an answer always begins a new message"),
    "echo": Rule("a chat's prompt is not repeated; /v1/completions does that"),
    "add_special_tokens": Rule("the model's chat template decides"),
}

EMBEDDING: Mapping[str, Rule] = {
    "normalize": _always(True, "vectors have length 1"),
    "messages": Rule("give input; models that embed have no form for chats"),
}

RERANK: Mapping[str, Rule] = {
    "max_chunks_per_doc": Rule("documents are scored whole; send their parts as documents"),
    "rank_fields": Rule("documents are texts; put the fields into them"),
}

TOKENIZE: Mapping[str, Rule] = {
    "chat_template": Rule("the template is the one of the model's file"),
    "continue_final_message": Rule("not served here"),
}

STRUCTURED: Mapping[str, Rule] = {
    "disable_any_whitespace": Rule("JSON may have whitespace"),
    "disable_additional_properties": Rule("say it in the schema"),
    "whitespace_pattern": COMMON["guided_whitespace_pattern"],
    "structural_tag": Rule("not served; use tools"),
}


def refuse(asked: msgspec.Struct, rules: Mapping[str, Rule], *, at: str = "") -> None:
    """Raise InvalidRequest (code "unsupported") for the first field that would change the answer.

    `at`: the path of `asked` in the body, with a dot at its end.
    """
    for field, rule in rules.items():
        value = getattr(asked, field)
        if value is not None and not _is_one_of(value, rule.neutral):
            raise unsupported(f"{at}{field}", rule.why)


def unsupported(field: str, why: str) -> InvalidRequest:
    """The refusal of a field, in words."""
    return InvalidRequest(f"{field}: {why}", param=field, code="unsupported")


def _is_one_of(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Equal in type too: 0 is not False here."""
    return any(type(value) is type(other) and value == other for other in neutral)
