"""The requests of OpenAI's dialect, with vLLM's extra parameters, as structs; null is "not given".

Types and simple ranges are checked while decoding. `Any` marks fields that are known and not served
yet: `refusals` says no when they are set to something that would change the answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

MAX_CHOICES = 128
"""Choices of one request: prompts times n."""
MAX_LOGPROBS = 20
_MAX_INT = 2**31 - 1

TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=_MAX_INT)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=_MAX_INT)]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=_MAX_INT)]
Fraction: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
NLogprobs: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)]
StopString: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]
Stops: TypeAlias = StopString | Annotated[list[StopString], Meta(max_length=16)]
LogitBias: TypeAlias = Annotated[
    dict[TokenId, Annotated[float, Meta(ge=-100, le=100)]], Meta(max_length=4096)
]
Name: TypeAlias = Annotated[str, Meta(max_length=256)]
Prompt: TypeAlias = str | list[str | TokenId | list[TokenId]]


class StreamOptions(msgspec.Struct, frozen=True):
    """How a stream ends."""

    include_usage: bool | None = None


Schema: TypeAlias = dict[str, Any] | bool
"""A JSON schema."""
Choices: TypeAlias = Annotated[list[str], Meta(min_length=1, max_length=4096)]


class JsonSchemaFormat(msgspec.Struct, frozen=True):
    """A schema with a name; it is enforced, strict or not."""

    schema: Schema
    name: str | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """What the answer has to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(msgspec.Struct, frozen=True):
    """vLLM's newer form of the guided_ fields."""

    json: Schema | str | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None

    disable_fallback: bool | None = None  # there is none
    disable_any_whitespace: Any = None
    disable_additional_properties: Any = None
    whitespace_pattern: Any = None
    structural_tag: Any = None


class GenerationFields(msgspec.Struct, frozen=True, kw_only=True):
    """What completions and chat completions have in common."""

    model: Name
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    service_tier: Name | None = None

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1, le=_MAX_INT)] | None = None
    min_p: Fraction | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    seed: int | None = None

    stop: Stops | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=256)] | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: Count | None = None
    ignore_eos: bool | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: Any = None
    logits_processors: Any = None
    bad_words: Any = None
    use_beam_search: Any = None
    prompt_logprobs: Any = None
    truncate_prompt_tokens: Any = None
    skip_special_tokens: Any = None
    return_tokens_as_token_ids: Any = None


class CompletionRequest(GenerationFields, frozen=True, kw_only=True):
    """Body of POST /v1/completions."""

    prompt: Prompt
    max_tokens: Count | None = None
    echo: bool | None = None
    logprobs: NLogprobs | None = None
    add_special_tokens: bool | None = None

    best_of: Annotated[int, Meta(ge=0, le=MAX_CHOICES)] | None = None
    suffix: Any = None
    prompt_embeds: Any = None


class ContentPart(msgspec.Struct, frozen=True):
    """One part of a message; only those of type "text" are served."""

    type: Name
    text: str | None = None


class FunctionCall(msgspec.Struct, frozen=True):
    """A call the assistant made earlier."""

    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(msgspec.Struct, frozen=True):
    """A call the assistant made earlier, with the id that its answer names."""

    function: FunctionCall
    id: str = ""
    type: str = "function"


class Message(msgspec.Struct, frozen=True):
    """One message of a chat."""

    role: Name
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class FunctionDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function as its model is told of it; `parameters` is the schema of its arguments."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolDefinition(msgspec.Struct, frozen=True):
    """A tool; all there are are functions."""

    function: FunctionDefinition
    type: Literal["function"] = "function"


class FunctionName(msgspec.Struct, frozen=True):
    """Which function."""

    name: str


class NamedChoice(msgspec.Struct, frozen=True):
    """The function that has to be called."""

    function: FunctionName
    type: Literal["function"] = "function"


ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedChoice
Tools: TypeAlias = Annotated[list[ToolDefinition], Meta(max_length=512)]
Messages: TypeAlias = Annotated[list[Message], Meta(min_length=1)]


class ChatRequest(GenerationFields, frozen=True, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: Messages
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: NLogprobs | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    functions: Any = None
    function_call: Any = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None
    documents: Any = None
    chat_template: Any = None
    add_generation_prompt: Any = None
    continue_final_message: Any = None
    add_special_tokens: Any = None
    echo: Any = None


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /tokenize: exactly one of prompt and messages."""

    model: Name | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Tools | None = None

    chat_template: Any = None
    continue_final_message: Any = None


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /detokenize."""

    tokens: list[TokenId]
    model: Name | None = None
