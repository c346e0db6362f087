"""Schemas of the kinds that clients send, each with what makes it worth a try."""

from __future__ import annotations

from typing import Any

_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "email": {"type": "string", "format": "email", "maxLength": 30},
        "nick": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
    },
    "required": ["name", "age", "email", "nick"],
    "additionalProperties": False,
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "any object": {"type": "object"},
    "closed object": _PERSON,
    "optional properties": {**_PERSON, "required": ["age"]},
    "open object": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "additionalProperties": {"type": "string", "maxLength": 4},
    },
    "map with a least size": {
        "type": "object",
        "properties": {"k": {"type": "boolean"}},
        "required": ["k"],
        "additionalProperties": {"type": "integer"},
        "minProperties": 2,
        "maxProperties": 4,
    },
    "keys by pattern": {
        "type": "object",
        "patternProperties": {"^i_[a-z]{1,3}$": {"type": "integer"}, "^s_": {"type": "string"}},
        "additionalProperties": False,
    },
    "list of numbers": {
        "type": "array",
        "items": {"type": "number", "minimum": -1.5, "exclusiveMaximum": 2.25},
        "minItems": 1,
        "maxItems": 6,
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string", "maxLength": 3}, {"type": "boolean"}],
        "items": {"type": "integer"},
        "minItems": 2,
        "maxItems": 5,
    },
    "tuple and no more": {
        "type": "array",
        "prefixItems": [{"const": "x"}, {"type": "null"}],
        "items": False,
        "minItems": 2,
    },
    "choices": {"enum": ["red", 'gr"een', "bl\\ue", 7, 2.5, None, True, {"a": [1, "é"]}]},
    "constant": {"const": {"version": 2, "tags": ["a", "b"], "none": None}},
    "string by length": {"type": "string", "minLength": 3, "maxLength": 5},
    "string by pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
    "pattern anywhere": {"type": "string", "pattern": "ab|cd", "maxLength": 40},
    "date and time": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "uuid": {"type": "string", "format": "uuid"},
    "address": {
        "type": "object",
        "properties": {
            "v4": {"type": "string", "format": "ipv4"},
            "v6": {"type": "string", "format": "ipv6"},
        },
        "required": ["v4", "v6"],
        "additionalProperties": False,
    },
    "integers by step": {"type": "integer", "minimum": -20, "maximum": 90, "multipleOf": 5},
    "types": {"type": ["integer", "null", "string", "boolean"], "maxLength": 4},
    "alternatives": {
        "anyOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
        ]
    },
    "told apart by a constant": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
                "required": ["kind", "lives"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"kind": {"const": "dog"}, "barks": {"type": "boolean"}},
                "required": ["kind", "barks"],
                "additionalProperties": False,
            },
        ]
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"a": {"minimum": 3}, "b": {"type": "string", "maxLength": 3}}},
        ],
        "required": ["b"],
    },
    "definitions": {
        "$defs": {
            "point": {
                "type": "object",
                "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
                "required": ["x", "y"],
                "additionalProperties": False,
            }
        },
        "type": "array",
        "items": {"$ref": "#/$defs/point"},
        "minItems": 1,
        "maxItems": 3,
    },
    "tree": {
        "type": "object",
        "properties": {
            "value": {"type": "integer"},
            "left": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
            "right": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["value", "left", "right"],
        "additionalProperties": False,
    },
    "reference with company": {
        "$defs": {"text": {"type": "string", "minLength": 1}},
        "type": "object",
        "properties": {"t": {"$ref": "#/$defs/text", "maxLength": 2, "description": "short"}},
        "required": ["t"],
    },
    "as pydantic writes it": {
        "$defs": {
            "Colour": {"enum": ["red", "green"], "title": "Colour", "type": "string"},
            "Item": {
                "properties": {
                    "colour": {"$ref": "#/$defs/Colour"},
                    "count": {
                        "anyOf": [{"exclusiveMinimum": 0, "type": "integer"}, {"type": "null"}],
                        "default": None,
                        "title": "Count",
                    },
                },
                "required": ["colour"],
                "title": "Item",
                "type": "object",
            },
        },
        "properties": {
            "items": {
                "items": {"$ref": "#/$defs/Item"},
                "maxItems": 3,
                "title": "Items",
                "type": "array",
            }
        },
        "required": ["items"],
        "title": "Order",
        "type": "object",
    },
}
