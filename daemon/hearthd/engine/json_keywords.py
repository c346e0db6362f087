"""Keywords of JSON Schema: what their values may be, and which a grammar cannot see to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from hearthd.engine import json_pattern
from hearthd.engine.json_pattern import Verdict

FORMATS = frozenset({
    "date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
})  # fmt: skip
"""Formats of strings that grammars know."""


class SchemaRefused(Exception):
    """A schema that cannot be honoured: `path` leads to the keyword, from the root of the schema."""

    def __init__(self, path: str, message: str, code: str = "unsupported") -> None:
        super().__init__(message)
        self.path = path
        self.message = message
        self.code = code


def joined(*parts: str) -> str:
    """One path of parts, some of which may be empty."""
    return ".".join(part for part in parts if part)


def invalid(path: str, message: str) -> SchemaRefused:
    """The refusal of a value that no draft allows."""
    return SchemaRefused(path, message, "invalid_value")


def check(schema: dict[str, Any], path: str) -> None:
    """Raise SchemaRefused for the first keyword that cannot be honoured; take off what asks for nothing."""
    _check_values(schema, path)
    _check_keywords(schema, path)
    _check_format(schema, path)
    _check_patterns(schema, path)
    _check_objects(schema, path)


# --- what keywords may hold ----------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer() and bool(value >= 0)


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)


_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_Check: TypeAlias = tuple[Callable[[Any], bool], str]
_NUMBER: _Check = (_is_number, "a number")
_COUNT: _Check = (_is_count, "a whole number of 0 or more")
_STRING: _Check = (lambda value: isinstance(value, str), "a string")
_OBJECT: _Check = (lambda value: isinstance(value, dict), "an object")
_SOME: _Check = (lambda value: isinstance(value, list) and bool(value), "a list that is not empty")

_VALUES: Mapping[str, _Check] = {
    "type": (_is_type, f"one or some of {', '.join(sorted(_TYPES))}"),
    "enum": _SOME,
    "minimum": _NUMBER,
    "maximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number over 0"),
    "minLength": _COUNT,
    "maxLength": _COUNT,
    "pattern": _STRING,
    "format": _STRING,
    "minItems": _COUNT,
    "maxItems": _COUNT,
    "minProperties": _COUNT,
    "maxProperties": _COUNT,
    "required": (_is_strings, "a list of strings"),
    "properties": _OBJECT,
    "patternProperties": _OBJECT,
    "$defs": _OBJECT,
    "definitions": _OBJECT,
    "prefixItems": _SOME,
    "allOf": _SOME,
    "anyOf": _SOME,
    "oneOf": _SOME,
    "items": (
        lambda value: not isinstance(value, list),
        "a schema; a list of them is `prefixItems`",
    ),
    "$ref": _STRING,
}


def _check_values(schema: Mapping[str, Any], path: str) -> None:
    for keyword, (is_right, wanted) in _VALUES.items():
        if keyword in schema and not is_right(schema[keyword]):
            raise invalid(joined(path, keyword), f"must be {wanted}")
    dialect = schema.get("$schema")
    if dialect is not None and not (isinstance(dialect, str) and _DIALECT.match(dialect)):
        raise SchemaRefused(
            joined(path, "$schema"), "this draft is not known here; 2020-12, 2019-09, 7 and 6 are"
        )
    for keyword in ("const", "enum", "required", "properties"):
        said = schema.get(keyword)
        if _has_control(list(said) if keyword == "properties" and said else said):
            raise SchemaRefused(joined(path, keyword), "control characters are not served")


_DIALECT = re.compile(r"https?://json-schema\.org/draft(/2020-12|/2019-09|-07|-06)/schema#?$")
_CONTROL = re.compile("[\x00-\x07\x0b\x0e-\x1f]")  # those that JSON has no short escape for


def _has_control(value: Any) -> bool:
    if isinstance(value, str):
        return _CONTROL.search(value) is not None
    if isinstance(value, dict):
        return any(map(_has_control, value)) or any(map(_has_control, value.values()))
    return isinstance(value, list) and any(map(_has_control, value))


# --- keywords that a grammar cannot see to --------------------------------------------------------


def _never(_value: Any, _schema: Mapping[str, Any]) -> bool:
    return False


def _always(_value: Any, _schema: Mapping[str, Any]) -> bool:
    return True


def _accepts_all(value: Any, _schema: Mapping[str, Any]) -> bool:
    return value is True or _is_empty(value, {})


def _is_empty(value: Any, _schema: Mapping[str, Any]) -> bool:
    return isinstance(value, dict) and not value


def _without(*others: str) -> Callable[[Any, Mapping[str, Any]], bool]:
    return lambda _value, schema: not any(other in schema for other in others)


_REFUSED: Mapping[str, Callable[[Any, Mapping[str, Any]], bool]] = {
    "not": lambda value, _: value is False,
    "if": _without("then", "else"),
    "then": _without("if"),
    "else": _without("if"),
    "contains": _never,
    "minContains": _without("contains"),
    "maxContains": _without("contains"),
    "uniqueItems": lambda value, _: value is False,
    "additionalItems": _always,  # counts only after a list of `items`, which is refused
    "unevaluatedItems": _accepts_all,
    "unevaluatedProperties": _accepts_all,
    "propertyNames": lambda value, _: value is True or value in ({}, {"type": "string"}),
    "dependentRequired": _is_empty,
    "dependentSchemas": _is_empty,
    "dependencies": _is_empty,
    "$dynamicRef": _never,
    "$dynamicAnchor": _always,  # counts only with $dynamicRef
    "$recursiveRef": _never,
    "$recursiveAnchor": _always,
    "extends": _never,
    "disallow": _never,
    "divisibleBy": _never,
    "x-guidance": _never,  # options of the grammar's compiler, `lenient` among them
}
"""Keyword -> whether a value of it, in its schema, asks for nothing: then it is dropped."""


def _check_keywords(schema: dict[str, Any], path: str) -> None:
    dropped = []
    for keyword, asks_nothing in _REFUSED.items():
        if keyword not in schema:
            continue
        if not asks_nothing(schema[keyword], schema):
            raise SchemaRefused(
                joined(path, keyword), f"the keyword {keyword!r} is not supported in schemas"
            )
        dropped.append(keyword)
    for keyword in dropped:
        del schema[keyword]


_REAL_DAY = (
    "^(....-(0[13-9]|1[0-2])-|....-02-([01]|2[0-8])"
    "|(..(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29)"
)
"""A date's beginning where a 29th of February stands in leap years only."""


def _check_format(schema: dict[str, Any], path: str) -> None:
    form = schema.get("format")
    if form in ("date", "date-time"):
        schema["allOf"] = [*schema.get("allOf", ()), {"pattern": _REAL_DAY}]
    if form is None or form in FORMATS:
        return
    types = schema.get("type", "string")
    if "string" not in (types if isinstance(types, list) else [types]):
        del schema["format"]  # of strings; "int32" and its like are annotations
        return
    raise SchemaRefused(
        joined(path, "format"),
        f"the format {form!r} is not supported; these are: {', '.join(sorted(FORMATS))}",
    )


def _check_patterns(schema: dict[str, Any], path: str) -> None:
    """Make a pattern that compiles to too much narrower; refuse what cannot be right."""
    for name in schema.get("patternProperties", {}):
        if json_pattern.judge(name) is not Verdict.EXACT:
            where = joined(path, "patternProperties", name)
            raise SchemaRefused(where, "keys with control characters or escapes are not served")
    if "pattern" not in schema:
        return
    verdict = json_pattern.judge(schema["pattern"])
    if verdict is Verdict.UNSERVED:
        where = joined(path, "pattern")
        raise SchemaRefused(where, "control characters and nested classes are not served")
    if verdict is Verdict.TOO_WIDE:
        schema["allOf"] = [*schema.get("allOf", ()), {"pattern": json_pattern.PLAIN}]


def _check_objects(schema: Mapping[str, Any], path: str) -> None:
    """Keys that are not listed may be repeated, and a repeated key counts once."""
    least = schema.get("minProperties", 0)
    is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    if not is_closed and least > len(set(schema.get("required", ()))) + 1:
        raise SchemaRefused(
            joined(path, "minProperties"),
            "more properties than one beside the required ones cannot be demanded",
        )
