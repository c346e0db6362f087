"""Constraints: what the answer of a request has to be, from the many fields that can say it."""

from __future__ import annotations

from typing import Any

import msgspec

from hearthd import wire
from hearthd.api import refusals
from hearthd.api.schema import GenerationFields, ResponseFormat, Schema, StructuredOutputs
from hearthd.errors import InvalidRequest

ANY_OBJECT: dict[str, Any] = {"type": "object"}


def constraint_of(asked: GenerationFields) -> wire.Constraint | None:
    """The one constraint that a request names; raises InvalidRequest where there are several."""
    found = [
        *_of_response_format(asked.response_format),
        *_of_guided(asked),
        *_of_structured(asked.structured_outputs),
    ]
    if len(found) > 1:
        named = " and ".join(constraint.param for constraint in found)
        raise InvalidRequest(
            f"{found[1].param}: an answer can be held to one thing only, not to {named}",
            param=found[1].param,
        )
    return found[0] if found else None


def _of_response_format(asked: ResponseFormat | None) -> list[wire.Constraint]:
    if asked is None or asked.type == "text":
        return []
    if asked.type == "json_object":
        return [wire.JsonConstraint(ANY_OBJECT, "response_format")]
    if asked.json_schema is None:
        param = "response_format.json_schema"
        raise InvalidRequest(
            f"{param}: is required", param=param, code="missing_required_parameter"
        )
    return [wire.JsonConstraint(asked.json_schema.schema, "response_format.json_schema.schema")]


def _of_guided(asked: GenerationFields) -> list[wire.Constraint]:
    found: list[wire.Constraint] = []
    if asked.guided_json is not None:
        found.append(_of_json(asked.guided_json, "guided_json"))
    if asked.guided_regex is not None:
        found.append(wire.RegexConstraint(asked.guided_regex, "guided_regex"))
    if asked.guided_choice is not None:
        found.append(wire.ChoiceConstraint(asked.guided_choice, "guided_choice"))
    if asked.guided_grammar is not None:
        found.append(wire.GrammarConstraint(asked.guided_grammar, "guided_grammar"))
    return found


def _of_structured(asked: StructuredOutputs | None) -> list[wire.Constraint]:
    at = "structured_outputs."
    if asked is None:
        return []
    refusals.refuse(asked, refusals.STRUCTURED, at=at)
    found: list[wire.Constraint] = []
    if asked.json is not None:
        found.append(_of_json(asked.json, f"{at}json"))
    if asked.json_object:
        found.append(wire.JsonConstraint(ANY_OBJECT, f"{at}json_object"))
    if asked.regex is not None:
        found.append(wire.RegexConstraint(asked.regex, f"{at}regex"))
    if asked.choice is not None:
        found.append(wire.ChoiceConstraint(asked.choice, f"{at}choice"))
    if asked.grammar is not None:
        found.append(wire.GrammarConstraint(asked.grammar, f"{at}grammar"))
    return found


def _of_json(schema: Schema | str, param: str) -> wire.JsonConstraint:
    """A schema, which may stand as a string of JSON."""
    if not isinstance(schema, str):
        return wire.JsonConstraint(schema, param)
    try:
        return wire.JsonConstraint(msgspec.json.decode(schema, type=dict[str, Any] | bool), param)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"{param}: is no JSON schema: {error}", param=param) from error
