"""JSON schemas as clients send them: what a grammar could not see to is refused by name, before one is made.

The draft is 2020-12. Keywords that validate nothing are annotations, as the draft says; those that
validate, and have no place in a grammar, are refused unless their value asks for nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hearthd.engine import json_pattern
from hearthd.engine.json_pattern import Verdict

Schema: TypeAlias = dict[str, Any] | bool

MAX_DEPTH = 100
"""Objects and lists inside each other."""

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


@dataclass(frozen=True, slots=True)
class Place:
    """A schema inside another one, and where."""

    path: str
    schema: dict[str, Any]


def checked(schema: Schema) -> tuple[Schema, list[Place]]:
    """A copy without what asks for nothing, and all schemas that count; raises SchemaRefused."""
    if schema is False:
        raise SchemaRefused("", "nothing is valid under the schema false", "invalid_value")
    if _is_deeper(schema, MAX_DEPTH):
        raise _invalid("", f"the schema is nested more than {MAX_DEPTH} deep")
    walk = _Walk(copy.deepcopy(schema))
    walk.visit(walk.root, "")
    return walk.root, walk.places


def joined(*parts: str) -> str:
    """One path of parts, some of which may be empty."""
    return ".".join(part for part in parts if part)


class _Walk:
    """Visits what is reached from the root; definitions that nothing refers to do not count."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.places: list[Place] = []
        self._seen: set[int] = set()

    def visit(self, schema: Any, path: str) -> None:
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise _invalid(path, "must be an object or a boolean")
        if id(schema) in self._seen:
            return
        self._seen.add(id(schema))
        _check_values(schema, path)
        _check_keywords(schema, path)
        _check_objects(schema, path)
        self.places.append(Place(path, schema))
        for name, inner in _inner_schemas(schema):
            self.visit(inner, joined(path, name))
        if "$ref" in schema:
            self._follow(schema["$ref"], joined(path, "$ref"))

    def _follow(self, reference: str, path: str) -> None:
        if not reference.startswith("#"):
            raise SchemaRefused(path, "only references inside the schema ('#...') are followed")
        if reference == "#":
            return
        if not reference.startswith("#/"):  # an anchor: whichever it is, it is among these
            for name in ("$defs", "definitions"):
                for key, inner in self._definitions(name):
                    self.visit(inner, joined(name, key))
            return
        node: Any = self.root
        steps = [_unescaped(step) for step in reference[2:].split("/")]
        for step in steps:
            if isinstance(node, dict) and step in node:
                node = node[step]
            elif isinstance(node, list) and step.isdecimal() and int(step) < len(node):
                node = node[int(step)]
            else:
                return  # it may start from a nested $id; the compiler will find it, or say no
        self.visit(node, ".".join(steps))

    def _definitions(self, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(self.root, dict) and isinstance(self.root.get(name), dict):
            yield from self.root[name].items()


def _inner_schemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Schemas that apply to the same value or to parts of it; not the definitions."""
    for keyword in ("properties", "patternProperties"):
        for name, inner in schema.get(keyword, {}).items():
            yield joined(keyword, name), inner
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield keyword, schema[keyword]
    for keyword in ("prefixItems", "allOf", "anyOf", "oneOf"):
        for i, inner in enumerate(schema.get(keyword, ())):
            yield f"{keyword}[{i}]", inner


def _is_deeper(value: Any, most: int) -> bool:
    """Whether objects and lists are nested deeper than that; without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        inner = [list(v.values()) if isinstance(v, dict) else v for v in level]
        level = [v for vs in inner for v in vs if isinstance(v, dict | list)]
        if not level:
            return False
    return True


def _unescaped(step: str) -> str:
    """One step of a JSON pointer in a fragment of a URI."""
    step = re.sub("%([0-9A-Fa-f]{2})", lambda hexa: chr(int(hexa[1], 16)), step)
    return step.replace("~1", "/").replace("~0", "~")


def _invalid(path: str, message: str) -> SchemaRefused:
    return SchemaRefused(path, message, "invalid_value")


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
            raise _invalid(joined(path, keyword), f"must be {wanted}")
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
    _check_format(schema, path)
    _check_patterns(schema, path)


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
