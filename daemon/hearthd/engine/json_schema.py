"""JSON schemas as clients send them: what a grammar could not see to is refused by name, before one is made.

The draft is 2020-12. Keywords that validate nothing are annotations, as the draft says; those that
validate, and have no place in a grammar, are refused unless their value asks for nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hearthd.engine import json_keywords
from hearthd.engine.json_keywords import SchemaRefused, invalid, joined

Schema: TypeAlias = dict[str, Any] | bool

MAX_DEPTH = 100
"""Objects and lists inside each other."""
MAX_SCHEMAS = 3000
"""Schemas inside one; the time that a compiler takes grows faster than their number."""


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
        raise invalid("", f"the schema is nested more than {MAX_DEPTH} deep")
    walk = _Walk(copy.deepcopy(schema))
    walk.visit(walk.root, "")
    return walk.root, walk.places


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
            raise invalid(path, "must be an object or a boolean")
        if id(schema) in self._seen:
            return
        self._seen.add(id(schema))
        if len(self.places) == MAX_SCHEMAS:
            raise invalid("", f"the schema has more than {MAX_SCHEMAS} schemas inside")
        json_keywords.check(schema, path)
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
